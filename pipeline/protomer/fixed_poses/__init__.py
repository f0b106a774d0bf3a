"""Several structures at once where poses are known."""
