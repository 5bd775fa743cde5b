"""The embedded model, which groups products by their words."""
