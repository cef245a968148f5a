"""Integer training on a CUDA device equals the NumPy reference, bit for bit."""

import numpy as np
import pytest

from prover.executor.reference import ReferenceOps
from prover.executor.torch_ops import TorchOps
from prover.executor.trainer import Trainer
from tests.support.device import REAL
from tests.toy import toy

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not REAL, reason="needs a CUDA device, and VERILORA_TEST_GPU=1")]


def test_a_window_on_the_device_equals_the_reference() -> None:
    t = toy(layers=2, steps=3, window_steps=3)
    traces = [Trainer(t.manifest, t.base, t.tokens, t.mask, ops).run_window(t.manifest.windows()[0])
              for ops in (ReferenceOps(), TorchOps("cuda"))]
    assert np.array_equal(traces[0].loss, traces[1].loss)
    for n, tensors in traces[0].state_out.items():
        for name, values in tensors.items():
            assert np.array_equal(values, traces[1].state_out[n][name]), (n, name)
