"""Refinement of what the microscope did: defocus of particles, aberrations and magnification of optics groups."""
