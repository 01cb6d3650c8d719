"""Other people's files → episodes: formats, columns, importers; and rows written back."""
