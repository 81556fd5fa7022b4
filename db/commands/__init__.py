"""One file a command that people type."""
