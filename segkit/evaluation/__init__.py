"""Comparing, evaluating and believing runs."""
