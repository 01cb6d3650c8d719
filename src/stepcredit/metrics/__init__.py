"""Statistics of results: arrays in, numbers with their uncertainty out; no model, no input or output."""
