"""The copy of all runs in Postgres: connect, migrate, load, compare, look."""
