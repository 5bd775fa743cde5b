"""Asking a language model: once, within limits, every word kept."""
