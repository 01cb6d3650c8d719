"""Result files: one schema of rows for those who write them and those who read them."""
