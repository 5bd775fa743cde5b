"""Experiments: runs that are made to be compared, as repeats of one run or as a sweep over parameters."""
