"""Events -> lines for people, or JSON lines."""
