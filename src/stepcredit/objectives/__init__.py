"""The mathematics: tensors and floats in, tensors out; no model, no batch class, no input or output."""
