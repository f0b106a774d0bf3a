"""Several structures at once."""
