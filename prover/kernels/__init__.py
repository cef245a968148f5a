"""One C++/CUDA kernel source for the prover's arithmetic, and the module that builds it for this machine's CPU."""
