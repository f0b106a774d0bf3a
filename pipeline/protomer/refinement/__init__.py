"""The one loop, and what a refinement starts from and leaves behind."""
