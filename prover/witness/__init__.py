"""The values of a task's tensors, recomputed from boundary tensors."""
