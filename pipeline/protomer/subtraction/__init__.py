"""Density taken out of images."""
