"""Statistics with confidence intervals: pure functions of arrays."""
