"""A taxonomy that is given: putting products into it, keeping its keys, editing it, seeing whether it still fits."""
