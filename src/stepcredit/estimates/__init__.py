"""Memory and time of a training run, from the model's config alone."""
