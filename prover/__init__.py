"""The prover: arrays in, proof bytes out; knows nothing of orchestration, SQL or object stores."""

import os

# Before torch loads its OpenMP, whoever imports it first: idle threads that spin cost the processor time of the work that they wait for,
# and slow down everything else on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
