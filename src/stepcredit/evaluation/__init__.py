"""Evaluation of policies and value models: accuracy, value quality, and step credit, as rows of results."""
