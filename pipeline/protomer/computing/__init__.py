"""Where arrays are computed on: the CPU, or a CUDA device."""
