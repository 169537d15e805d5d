"""From a trained network to a package for the field."""
