"""Extraction of the answer from a response: boxes, clauses, fences, runs of text."""
