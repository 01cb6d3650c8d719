"""Prompts → graded episodes: responses and conversations, in work units that resume."""
