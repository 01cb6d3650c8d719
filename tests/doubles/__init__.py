"""Small real components for tests: tokenizers made on the spot, models of a few thousand parameters."""
