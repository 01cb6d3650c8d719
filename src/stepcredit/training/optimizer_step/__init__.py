"""What happens in an optimizer step: inputs of the objective, metrics, checks of numbers, parameter groups,
further updates of V."""
