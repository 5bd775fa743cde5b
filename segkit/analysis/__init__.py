"""Reading runs: logs as SQL, tables, figures, lineage, the report, exports."""
