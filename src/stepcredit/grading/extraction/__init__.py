"""Finding the answer in a response: boxes, clauses, fences, runs of text."""
