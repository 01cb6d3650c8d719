"""From the hidden states of a model to log-probabilities and values."""
