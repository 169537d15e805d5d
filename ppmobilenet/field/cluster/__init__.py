"""One prediction job over a cluster of machines: the photos in parts, each answered by one worker into one file."""
