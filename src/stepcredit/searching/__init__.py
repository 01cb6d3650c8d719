"""Search at test time: step beams, and choices among responses or replies by their values."""
