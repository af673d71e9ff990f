"""The stage exploration."""
