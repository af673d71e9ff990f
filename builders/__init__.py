"""Serialised builders for ``mrun``."""
