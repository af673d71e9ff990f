"""Labels, and the versioned training sets made of them."""
