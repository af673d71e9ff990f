"""The stage training."""
