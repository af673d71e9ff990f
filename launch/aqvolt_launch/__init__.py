"""Command line, embedded database, submission and workers."""
