"""Weights -> a package for the field."""
