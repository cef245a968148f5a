"""What no relation is built for, and the tensors of every commitment of a run."""

from dataclasses import replace
from math import prod

import pytest

from protocol.manifest import RunManifest, StepRange
from protocol.relation.graph import RelationError
from protocol.relation.model import build, commitment_tensors
from protocol.relation.parts import gamma_names
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


@pytest.mark.parametrize("layer", [2, -1, "0"])
def test_updates_are_of_a_layer_of_a_run_in_parts(layer: int | str) -> None:
    build(manifest("parts with everything"), "update", StepRange(0, 2), 1)
    for run, number in (("parts with everything", layer), ("adamw with everything", 0)):
        with pytest.raises(RelationError, match=f"no task update for layer {number}"):
            build(manifest(run), "update", StepRange(0, 2), number)


@pytest.mark.parametrize("kind", ["embed", "head"])
def test_parts_that_no_run_has(kind: str) -> None:
    for run, good, wrong in (("parts", (1, 2, 3), (0, 4, -1)), ("odd", (0,), (1, 2, -1))):
        m = manifest(run)
        digests = {build(m, kind, StepRange(0, 1), part=part).digest() for part in good}
        assert len(digests) == len(good)
        for part in wrong:
            with pytest.raises(RelationError, match=f"{kind}: no part {part} of {m.parts}"):
                build(m, kind, StepRange(0, 1), part=part)


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


@pytest.mark.parametrize("name", ["x/0", "dx/1", "norm/0", "clip", "x/0/1", "dx/1/2", "adapter/0", "gradient/0/1", "loss/1"])
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


def test_tensors_of_the_commitments_of_a_run_in_parts() -> None:
    m, window = manifest("parts with everything"), StepRange(0, 2)
    for kind in ("x", "dx"):
        assert commitment_tensors(m, f"{kind}/1/2", window) == [(kind, (2, m.sequences // 2, m.sequence_length, m.model.hidden))]
    assert commitment_tensors(m, "loss/1", StepRange(2, 1)) == [("loss", (1,)), ("tokens", (1,))]
    delivered = commitment_tensors(m, "delivered/0")
    steps = [(name, (2, *shape)) for name, shape in delivered]
    assert commitment_tensors(m, "adapter/0", window) == steps and len(steps) == 14
    gammas = [("gamma_attn", (m.model.hidden,)), ("gamma_mlp", (m.model.hidden,))]
    assert commitment_tensors(m, "gradient/0/1", window) == steps + gammas
    assert gamma_names(replace(m, lora=replace(m.lora, target_modules=("v_proj",)))) == ["gamma_attn"]
    assert gamma_names(replace(m, lora=replace(m.lora, target_modules=("up_proj",)))) == ["gamma_mlp"]
    assert gamma_names(replace(m, lora=replace(m.lora, target_modules=("o_proj", "down_proj")))) == []
