"""What travels: bundles saved and loaded, model cards, initial weights."""
