"""Thin tasks: load, call prover or verifier, store, append. One file for each kind of work."""
