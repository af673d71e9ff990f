"""Labels that others published, brought to the shape of our own; each keeps its own protocol."""
