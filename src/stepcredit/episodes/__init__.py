"""Episodes: what happened, which tokens were actions, where steps end, how it is stored."""
