"""The copy of all runs in Postgres: connecting, migrating, loading, comparing, inspecting."""
