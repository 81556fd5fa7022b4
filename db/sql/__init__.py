"""Text -> statements; no file system beyond the file itself, no database."""
