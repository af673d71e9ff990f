"""The stage labeling."""
