"""Result files: the schema of rows, shared by writers and readers."""
