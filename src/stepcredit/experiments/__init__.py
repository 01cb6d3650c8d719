"""Many runs as one: comparisons, recipes, the quickstart."""
