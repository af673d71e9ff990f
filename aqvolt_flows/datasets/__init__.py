"""The stage datasets."""
