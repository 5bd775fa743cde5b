"""Commands for a working folder: what it needs, how it is set up, its prompt sets."""
