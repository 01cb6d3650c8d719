"""Policy, value model and reference: loading, saving, and the statistics that objectives need."""
