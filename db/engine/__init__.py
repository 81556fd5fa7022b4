"""What happens: the run."""
