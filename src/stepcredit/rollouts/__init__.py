"""Rollouts: prompts in, graded episodes out; single-turn and multi-turn, in resumable work units."""
