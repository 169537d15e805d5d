"""A run or a package as one page to look at."""
