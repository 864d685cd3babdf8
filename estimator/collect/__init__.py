"""What the readers of a kernel share: source, mappings, tables, settling, passes, workers."""
