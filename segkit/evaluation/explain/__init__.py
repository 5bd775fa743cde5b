"""Why a product stands where it stands: sentences, each with its evidence."""
