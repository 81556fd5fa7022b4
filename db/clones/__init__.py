"""A database for each test, cloned from a template that is made once."""
