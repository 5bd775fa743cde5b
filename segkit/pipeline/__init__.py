"""A run from beginning to end: prepare, plan, extend, the stages, the notebooks, its move to S3."""
