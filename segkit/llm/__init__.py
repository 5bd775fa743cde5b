"""Asking a language model: once, within limits, with every word kept."""
