"""Whole checkpoints of one run: saved, found again, resumed from."""
