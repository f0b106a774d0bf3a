"""Volumes and masks, and all that is done to them without looking at an image."""
