"""The stage sampling."""
