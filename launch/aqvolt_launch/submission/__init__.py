"""Submission: units of work become workflows, each once, within a window and without what is on hold."""
