"""Starts: whether a run may start, how its folder is made, and how it gets into the queue."""
