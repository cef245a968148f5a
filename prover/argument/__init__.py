"""The prover's side of protocol/schedule, file for file."""
