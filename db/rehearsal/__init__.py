"""What pending files would do to the target, measured on a copy of its schema."""
