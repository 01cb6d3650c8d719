"""Grading of answers: right, wrong or undecided."""
