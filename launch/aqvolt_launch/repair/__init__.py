"""Repair: what killed workers and submitters left is found and set right."""
