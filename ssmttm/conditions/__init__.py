"""What music can be asked by."""
