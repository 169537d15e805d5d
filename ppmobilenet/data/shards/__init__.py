"""Photos in tar shards: packing a list, indexing tars that are there, training on them; ``photos/shards.py`` reads."""
