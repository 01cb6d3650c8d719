"""Configs, methods, batching and the trainer."""
