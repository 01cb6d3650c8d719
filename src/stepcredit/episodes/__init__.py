"""Episodes: prompts with responses and rewards, their tokenisation, steps, alignment and storage."""
