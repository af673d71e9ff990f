"""maggma builders, one per target collection."""
