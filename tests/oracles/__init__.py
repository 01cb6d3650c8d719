"""Slow, obvious float64 references that the library is held against."""
