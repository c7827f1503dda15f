"""Training: one loop for both stages, two engines, checkpoints that count only when complete."""
