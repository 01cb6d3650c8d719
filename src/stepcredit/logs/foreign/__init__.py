"""Log files of other tools, converted to rows with our columns; each format has a module and is recognised by shape."""
