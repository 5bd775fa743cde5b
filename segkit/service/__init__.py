"""Runs as a service: tokens, admission, a queue of processes, their status."""
