"""The prover: arrays in, proof bytes out; knows nothing of orchestration, SQL or object stores."""
