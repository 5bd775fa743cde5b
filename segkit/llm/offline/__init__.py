"""The embedded model that groups products by words."""
