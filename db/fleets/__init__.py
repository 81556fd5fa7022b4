"""Many targets: which they are, how many connections they take, who does what."""
