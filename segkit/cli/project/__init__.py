"""Commands around a folder of work: what it needs, how it is set up, its prompt sets."""
