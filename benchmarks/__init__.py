"""Benchmarks: speeds as ratios to this machine's own multiplication and SHA-256 rates, measured in the same run."""

import prover  # noqa: F401 - before torch: it settles how its threads wait
