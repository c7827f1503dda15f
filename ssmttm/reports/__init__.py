"""Every page and picture."""
