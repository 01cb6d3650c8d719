"""Malformed input over all commands: what is tried, and whether one clear line comes of it."""
