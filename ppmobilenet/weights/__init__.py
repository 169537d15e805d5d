"""Published numbers: reading weight files of every kind, and loading them strictly."""
