"""Comparing and evaluating runs, and measuring how far they can be trusted."""
