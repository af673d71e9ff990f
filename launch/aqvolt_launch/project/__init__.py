"""A project folder: its files, what it lacks, and how its campaign stands."""
