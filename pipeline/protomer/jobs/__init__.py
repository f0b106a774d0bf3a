"""The jobs: one module each; it reads like the Methods section of a paper."""
