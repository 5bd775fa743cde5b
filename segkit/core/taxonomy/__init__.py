"""An existing taxonomy: putting products into it, keeping its keys, editing it, testing whether it still fits."""
