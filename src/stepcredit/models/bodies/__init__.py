"""Forward passes of transformers without their heads, and cheaper ways to run them."""
