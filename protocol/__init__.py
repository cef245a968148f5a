"""What prover and verifier must agree on; standard library and NumPy only."""
