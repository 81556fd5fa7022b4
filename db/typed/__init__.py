"""A database's tables and views as typed Python."""
