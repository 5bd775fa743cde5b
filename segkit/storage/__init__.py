"""Bytes: atomic files, locks, checksums, S3, the removal of secrets."""
