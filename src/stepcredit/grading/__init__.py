"""Verdicts on answers: right, wrong or undecided."""
