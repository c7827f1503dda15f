"""ssmttm: train, measure and serve state-space text-to-music models on openly licensed music."""

__version__ = "0.1.0"
