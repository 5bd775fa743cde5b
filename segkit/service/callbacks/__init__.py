"""Callbacks: a run that ends is reported to the address that the operator set for its token."""
