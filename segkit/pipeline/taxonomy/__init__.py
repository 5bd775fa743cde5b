"""Runs with a given taxonomy: made from a finished run or a file, put to work, and reported on."""
