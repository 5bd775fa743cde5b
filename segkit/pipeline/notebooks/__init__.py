"""Notebooks of a run: each executed by papermill into the run folder, in a kernel that was started ahead."""
