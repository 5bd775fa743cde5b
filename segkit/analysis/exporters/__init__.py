"""A run in the tools that others use: MLflow, OpenTelemetry and dbt. Each exporter reads the run folder alone."""
