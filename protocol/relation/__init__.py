"""The relation: one graph of tensor operations, executed in integers, proved, and verified."""
