"""Objectives and metrics as pure functions of tensors, independent of models, batches and files."""
