"""Pydantic documents that cross MongoDB, and the parameters that campaigns carry."""
