"""The stage candidates."""
