"""External log files: reading formats and columns, importing episodes, grading and writing rows."""
