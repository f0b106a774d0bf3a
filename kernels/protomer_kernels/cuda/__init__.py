"""CUDA drivers of the kernels, one module beside each CPU module of the same name; nothing on the CPU's paths imports them."""
