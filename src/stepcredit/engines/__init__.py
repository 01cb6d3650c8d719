"""Engines: prompts in, sampled token ids out."""
