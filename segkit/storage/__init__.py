"""Bytes: atomic files, locks, checksums, S3, secrets taken out."""
