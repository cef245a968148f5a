"""The independent verifier: statement and proof bytes in, verdict out. Needs NumPy and cryptography; never imports the prover."""

__version__ = "0.1.0"
