"""What no relation is built for, and the tensors of every commitment of a run."""

from math import prod

import pytest

from protocol.manifest import RunManifest, StepRange
from protocol.relation.graph import RelationError
from protocol.relation.model import build, commitment_tensors
from tests.protocol.test_graphs import RUNS


def manifest(name: str = "adamw with everything") -> RunManifest:
    return RunManifest.from_json(str(RUNS[name]["manifest"]).encode())  # layers 2, steps 3, window_steps 2, AdamW, clipped


@pytest.mark.parametrize("window", [None, StepRange(-1, 2), StepRange(0, 0), StepRange(2, 2), StepRange(3, 1), StepRange(0, -1)])
@pytest.mark.parametrize("kind", ["embed", "layer", "head", "clip"])
def test_windows_that_no_run_has(kind: str, window: StepRange | None) -> None:
    with pytest.raises(RelationError, match=f"{kind}: no such window"):
        build(manifest(), kind, window, 0)


@pytest.mark.parametrize(("kind", "layer"), [("layer", 2), ("layer", -1), ("layer", "0"), ("nonsense", 0), ("", 0), ("layers", 1)])
def test_tasks_that_no_run_has(kind: str, layer: int | str) -> None:
    with pytest.raises(RelationError, match=f"no task {kind} for layer {layer}"):
        build(manifest(), kind, StepRange(0, 2), layer)


def test_the_first_layer_is_meant_where_none_is_named() -> None:
    first, second = (build(manifest(), "layer", StepRange(0, 1), n).digest() for n in (0, 1))
    assert build(manifest(), "layer", StepRange(0, 1)).digest() == first != second


@pytest.mark.parametrize("name", ["base/2", "x/0", "", "state/0", "heads", "dataset/0"])
def test_range_tasks_are_about_base_commitments(name: str) -> None:
    with pytest.raises(RelationError, match=f"no base commitment is named {name}$"):
        build(manifest(), "range", None, name)


def test_a_clip_task_needs_a_clipped_run() -> None:
    with pytest.raises(RelationError):
        build(manifest("odd"), "clip", StepRange(0, 2))


@pytest.mark.parametrize("name", ["x/0", "dx/1", "norm/0", "clip"])
def test_what_exists_in_windows_only(name: str) -> None:
    with pytest.raises(RelationError, match=f"no commitment is named {name} outside a window"):
        commitment_tensors(manifest(), name)
    with pytest.raises(RelationError, match="no commitment is named nonsense$"):
        commitment_tensors(manifest(), "nonsense", StepRange(0, 2))


def test_tensors_of_every_commitment() -> None:
    m = manifest()
    model, window = m.model, StepRange(0, 2)
    assert commitment_tensors(m, "dataset") == [("tokens", (m.examples, m.sequence_length + 1)), ("mask", (m.examples, m.sequence_length))]
    for kind in ("x", "dx"):
        assert commitment_tensors(m, f"{kind}/1", window) == [(kind, (2, m.sequences, m.sequence_length, model.hidden))]
    assert commitment_tensors(m, "norm/0", window) == [("n", (2,))] and commitment_tensors(m, "clip", window) == [("factor", (2,))]
    delivered, state = dict(commitment_tensors(m, "delivered/0")), dict(commitment_tensors(m, "state/0"))
    heads, r = model.head_dim, m.lora.r
    for module, out in (("q_proj", model.heads), ("k_proj", model.kv_heads)):
        assert sorted(delivered[f"{module}.lora_A"]) == sorted((r, model.hidden))
        b = delivered[f"{module}.lora_B"]
        assert b[-1] == r and prod(b) == out * heads * r
    assert set(state) == {*delivered, *(f"{name}.{x}" for name in delivered for x in "mv")}
    assert all(state[f"{name}.{x}"] == state[name] == delivered[name] for name in delivered for x in "mv")
    sgd = manifest("odd")
    plain = dict(commitment_tensors(sgd, "state/0"))
    assert {name.rsplit(".", 1)[1] for name in plain} == {"lora_A", "lora_B", "momentum"}
