"""Models and episodes in, rows of results out: accuracy, value quality, step credit."""
