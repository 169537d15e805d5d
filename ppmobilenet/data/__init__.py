"""List file -> batches."""
