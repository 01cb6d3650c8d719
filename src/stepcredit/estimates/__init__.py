"""Memory, time and disk of a training run, from the model's config alone."""
