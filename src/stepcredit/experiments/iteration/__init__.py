"""Iterative training: rounds of collection, training and evaluation, each with a manifest."""
