"""A run on disk and in S3: its folder, status, events, interactions, integrity, and who owns it."""
