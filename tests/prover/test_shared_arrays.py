"""From executor to prover without the host: results stay where they were computed, the backend shares them, proofs are the same."""

import numpy as np
import pytest
import torch

from protocol.relation.graph import Graph
from prover.argument.prove import prove_task
from prover.backend import select
from prover.commitment.commit import commit
from prover.executor.evaluate import RelationBroken, check, evaluate
from prover.executor.reference import ReferenceOps
from prover.executor.torch_ops import TorchOps, ops_beside
from prover.witness.task import task_values
from tests.support.device import Shared, device
from tests.support.stage import PARAMS, Case, Stage, seed
from tests.toy import toy


@pytest.fixture(scope="module")
def layer() -> Case:
    return Stage(toy(layers=1, steps=2, window_steps=2, sequence_length=3, target_modules=("q_proj",))).case("layer", 0, 0)


def kept_values(case: Case) -> list[torch.Tensor]:
    manifest, task = case.stage.toy.manifest, case.task
    return task_values(manifest, task.kind, manifest.windows()[task.window], task.subject, case.inputs, TorchOps(keep=True), every=True)[1]


def test_results_stay_and_are_shared(layer: Case) -> None:
    backend = device(64, 32)
    for tensor, expected in zip(kept_values(layer), layer.values, strict=True):
        assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), expected)
        shared = Shared(backend, tensor.numpy())
        assert backend.to_device(shared).data.ptr == shared.array.data.ptr


def test_the_proof_is_that_of_host_arrays(layer: Case) -> None:
    proofs, there = [], device(64, 32)
    for backend, values in ((select("cpu"), layer.values), (there, [Shared(there, x.numpy()) for x in kept_values(layer)])):
        inputs = [(role, commit(backend, layer.stage.layout(name), layer.stage.arrays[str(name)], seed(str(name))))
                  for role, name in layer.task.commitments]
        published = layer.published()
        proofs.append(prove_task(backend, layer.shape, b"shared", inputs, values, published, PARAMS, seed("attempt"), lambda: None))
    assert proofs[0] == proofs[1]


def test_kept_results_are_checked_where_they_lie(layer: Case) -> None:
    values, ops = dict(enumerate(kept_values(layer))), TorchOps(keep=True)
    check(layer.graph, values, ops)
    lookup = next(x for x in layer.graph.lookups if len(x.columns) > 1)
    for index, text in ((lookup.columns[1].index, "lookup in"), (layer.graph.zeros[0].tensor.index, "zero")):
        wrong = values[index].clone()
        wrong.view(-1)[-1] ^= 1
        with pytest.raises(RelationBroken, match=text):
            check(layer.graph, values | {index: wrong}, ops)


def test_results_of_steps_are_joined() -> None:
    g = Graph()
    x = g.input("x", "X", "sn", (2, 3), -5, 5)
    array = np.arange(6).reshape(2, 3) - 3
    for ops in (TorchOps(), TorchOps(keep=True), ReferenceOps()):
        found = evaluate(g, {("x", "X"): array}, [x], ops)[x.index]
        assert np.array_equal(np.asarray(ops.join([found, found])), np.concatenate([array, array]))


def test_executor_beside_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, available, place in (("cuda", True, "cuda"), ("cuda", False, "cpu"), ("cpu", True, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        found = ops_beside(backend)
        assert (found.device, found.keep) == (place, place == "cuda")
