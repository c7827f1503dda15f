"""What stage 1's blocks are made of, one mixer a file."""
