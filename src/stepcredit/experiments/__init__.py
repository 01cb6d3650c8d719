"""Experiments made of many runs: comparisons, recipes and the quickstart."""
