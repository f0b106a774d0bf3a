"""Groups, their axes in a map, and copies of particles under them."""
