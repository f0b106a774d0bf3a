"""The particles' images: read, prepared, kept."""
