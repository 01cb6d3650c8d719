"""Test-time search: step beam search, and selection among sampled responses or replies by value."""
