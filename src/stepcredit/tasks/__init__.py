"""Tasks: prompts and their graders."""
