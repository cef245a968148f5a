"""The independent verifier: statement and proof bytes in, verdict out. Needs NumPy alone; never imports the prover."""
