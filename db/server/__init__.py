"""Where it goes: connections, bytes, processes."""
