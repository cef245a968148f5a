"""The optimizer executed: torch's operations equal the reference, and integer AdamW follows torch's on the same gradients.

Deviations are stated in units that mean something: m and v in units of their last place, an update in learning rates.
"""

from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from protocol.manifest import RunManifest, StepRange
from protocol.relation.clip import FACTOR_BITS, NORM_BITS, ROW_BITS
from protocol.relation.graph import IntArray
from protocol.relation.model import build
from protocol.relation.tables import GUARD
from protocol.relation.update import MATRICES
from prover.executor.calibrate import CalibrationError, calibrate
from prover.executor.float_model import FloatRun
from prover.executor.reference import ReferenceOps
from prover.executor.torch_ops import TorchOps
from prover.executor.trainer import Trainer
from prover.witness.task import task_values
from tests.toy import EVEN, Toy, toy

torch.set_num_threads(1)  # on a busy machine two spinning threads are slower than one

TOP = 1 << 61
ROOTS = (1, 2, 3, 255, (1 << 26) + 1, 94906266, (1 << 30) + 7, isqrt(TOP - 1))
SQUARES = [n for r in ROOTS for n in (r * r - 1, r * r, r * r + 1)]


def both(hint: str, *arrays: IntArray, **params: int) -> list[int]:
    """The reference's result, after making sure that torch's is the same."""
    reference, ops = ReferenceOps(), TorchOps()
    expected = getattr(reference, hint)(*arrays, **params)
    found = ops.store(getattr(ops, hint)(*[ops.load(a) for a in arrays], **params))
    assert expected.dtype == found.dtype == np.int64 and np.array_equal(expected, found)
    return [int(x) for x in expected]


def test_roots_are_exact_up_to_61_bits() -> None:
    v = np.concatenate([[0, TOP - 1], SQUARES, np.random.default_rng(1).integers(0, TOP, 3000)])
    assert both("isqrt", v) == [isqrt(int(x)) for x in v]


def test_quotients_are_exact_up_to_61_bits() -> None:
    rng = np.random.default_rng(2)
    d = np.concatenate([[1, 1, TOP - 1, 3, 3, 2], rng.integers(1, TOP, 2000), rng.integers(1, 1 << 20, 2000)])
    n = np.concatenate([[TOP - 1, -(TOP - 1), -(TOP - 1), -1, -3, -1], rng.integers(-TOP, TOP, 4000)])
    assert both("divide", n, d) == [int(a) // int(b) for a, b in zip(n, d, strict=True)]


def test_the_greater_of_two() -> None:
    assert both("maximum", np.array([0, 5, 6, 7, TOP - 1]), limit=6) == [6, 6, 6, 7, TOP - 1]


# AdamW on given gradients ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deviation:
    """The largest differences from torch.optim.AdamW: m and √v in units, the update in learning rates (largest, median)."""

    first: float
    root: float
    update: float
    median: float


def deviation(t: Toy, only: str = "") -> Deviation:
    """Of one window of one layer; torch is given the integers' own gradients, and the learning rates as they are."""
    m, o = t.manifest, t.manifest.optimizer
    (window,) = m.windows()
    trainer = Trainer(m, t.base, t.tokens, t.mask)
    trace = trainer.run_window(window)
    inputs = trainer.layer_inputs(0, {}) | {("x_in", "x"): trace.x[0], ("dx_in", "dx"): trace.dx[1]}
    if trace.clip is not None:
        inputs |= {("clip", "factor"): trace.clip}
    graph, values = task_values(m, "layer", window, 0, inputs, every=True)
    by_name = {tensor.name: value for tensor, value in zip(graph.tensors, values, strict=True)}
    found: list[tuple[float, float, IntArray]] = []
    for name in (f"{module}.{matrix}" for module in m.lora.target_modules for matrix in MATRICES):
        gradient = f"{name}.clipped" if o.clips else f"{name}.mean"
        unit = 2.0 ** -m.exponents[f"layer/0/{gradient}"]
        gradients = by_name[gradient] * unit
        weight = torch.from_numpy(by_name[f"{name}.steps"][0] * 2.0**-24).requires_grad_()
        adamw = torch.optim.AdamW([weight], 1.0, (float(o.beta1), float(o.beta2)), float(o.epsilon), float(o.weight_decay))
        for s in range(window.count):
            rate, before = o.rate(s, m.steps) * 2.0**-GUARD, weight.detach().clone()
            adamw.param_groups[0]["lr"], weight.grad = rate, torch.from_numpy(gradients[s])
            adamw.step()
            state = adamw.state[weight]
            first = np.abs(by_name[f"{name}.first"][s] - state["exp_avg"].numpy() / unit).max()
            root = np.abs(np.sqrt(by_name[f"{name}.second"][s]) - state["exp_avg_sq"].sqrt().numpy() / unit).max()
            moved = by_name[f"{name}.delta"][s] + by_name.get(f"{name}.decay", np.zeros((window.count, 1, 1)))[s]
            update = np.abs(moved * 2.0**-24 - (before - weight.detach()).numpy()) / rate if rate else np.zeros(1)
            found.append((float(first), float(root), update))
    updates = np.concatenate([u.ravel() for _, _, u in found])
    return Deviation(max(x for x, _, _ in found), max(x for _, x, _ in found), float(updates.max()), float(np.median(updates)))


RUNS = {
    "defaults": {"learning_rate": "0.01"},
    "beta2 0.95, decay": {"learning_rate": "0.01", "beta1": "0.8", "beta2": "0.95", "weight_decay": "0.1"},
    "beta2 0.98, cosine": {"learning_rate": "0.001", "beta2": "0.98", "schedule": "cosine", "warmup_steps": 2},
    "clipped, linear": {"learning_rate": "0.01", "max_grad_norm": "0.05", "schedule": "linear", "weight_decay": "0.01"},
    "large epsilon": {"learning_rate": "0.01", "epsilon": "1"},
    "small epsilon": {"learning_rate": "0.01", "epsilon": "0.000000000000001"},
}


@pytest.mark.parametrize("run", RUNS)
def test_adamw_follows_torch(run: str) -> None:
    d = deviation(toy(steps=8, window_steps=8, kind="adamw", **RUNS[run]))
    print(run, d)
    assert d.first < 5 and d.root < 40  # roundings to half a unit, kept for 1/(1−β) steps
    assert d.update < 0.02 and d.median < 2e-4


def test_small_gradients_never_move_a_weight_further_than_large_ones() -> None:
    """Where v has no bits left an update is too small, not divided by ε alone (once up to 100 learning rates)."""
    t = toy(steps=6, window_steps=6, kind="adamw", learning_rate="0.0001", extra_headroom=3)
    d = deviation(t)
    print("three bits less", d)
    assert d.update < 1.0 and d.median < 2e-3


# the float64 run and what is calibrated from it ----------------------------------------------------------------------


def float_run(t: Toy) -> FloatRun:
    return FloatRun(t.manifest, t.base, t.tokens, t.mask)


@pytest.mark.parametrize("optimizer", [
    {"kind": "adamw", "weight_decay": "0.1", "max_grad_norm": "0.3", "schedule": "cosine", "warmup_steps": 2, "beta2": "0.95"},
    {"kind": "adamw", "schedule": "linear", "epsilon": "0.001"},
    {"momentum": "0.9", "max_grad_norm": "0.3", "schedule": "linear", "warmup_steps": 3}, {"momentum": "0"},
], ids=str)
def test_float_run_is_torch_with_transformers_schedules(optimizer: dict[str, object]) -> None:
    t = toy(layers=2, steps=6, sizes=EVEN, **optimizer)
    o, run, rng = t.manifest.optimizer, float_run(t), np.random.default_rng(1)
    copies = [w.detach().clone().requires_grad_() for w in run.adapter.values()]
    rate = float(o.learning_rate)
    theirs: torch.optim.Optimizer = torch.optim.SGD(copies, rate, float(o.momentum))
    if o.kind == "adamw":
        theirs = torch.optim.AdamW(copies, rate, (float(o.beta1), float(o.beta2)), float(o.epsilon), float(o.weight_decay))
    name = "constant_with_warmup" if o.schedule == "constant" else o.schedule
    scheduler = get_scheduler(name, theirs, o.warmup_steps, t.manifest.steps)
    for k in range(6):
        for ours, other in zip(run.adapter.values(), copies, strict=True):
            ours.grad = torch.from_numpy(rng.normal(size=tuple(ours.shape)))
            other.grad = ours.grad.clone()
        if o.clips:
            torch.nn.utils.clip_grad_norm_(copies, float(o.max_grad_norm))
        run.update(k)
        theirs.step()
        scheduler.step()
        for ours, other in zip(run.adapter.values(), copies, strict=True):
            assert torch.allclose(ours.detach(), other.detach(), rtol=0, atol=1e-12)


def test_accumulation_is_one_larger_batch() -> None:
    runs = [float_run(toy(kind="adamw", **batch)) for batch in ({"batch_size": 1, "gradient_accumulation": 3}, {"batch_size": 3})]
    assert [runs[0].step(k) for k in range(2)] == [runs[1].step(k) for k in range(2)]
    assert runs[0].maxima == runs[1].maxima


def whole_step(run: FloatRun, k: int) -> float:
    """The step with the graph of all layers at once."""
    run.optimizer.zero_grad()
    index = torch.from_numpy(np.array(run.m.batch(k)))
    ids, mask = run.tokens[index], run.mask[index]
    x = run.trace("x", "dx/0", run.base["embedding"]["E"][ids[:, :-1]].requires_grad_())
    for layer in range(run.m.model.layers):
        x = run.layer(layer, x, run.adapter)
    loss = (run.token_loss(x, ids[:, 1:]) * mask).sum()
    run.backward(loss)
    for matrix in run.adapter.values():
        matrix.grad /= float(mask.sum())
    run.update(k)
    return float(loss.detach()) / float(mask.sum())


@pytest.mark.parametrize("optimizer", [{"kind": "adamw", "max_grad_norm": "0.3"}, {"momentum": "0.9"}], ids=str)
def test_layers_one_at_a_time_are_the_whole_model_bit_for_bit(optimizer: dict[str, object]) -> None:
    runs = [float_run(toy(layers=3, steps=4, **optimizer)) for _ in range(2)]
    for k in range(4):
        assert runs[0].step(k) == whole_step(runs[1], k)
        assert runs[0].maxima == runs[1].maxima
    assert all(torch.equal(matrix, runs[1].adapter[name]) for name, matrix in runs[0].adapter.items())


def test_sequences_some_at_a_time_are_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of float64 in another order; exponents are the same."""
    settings: dict[str, object] = {"layers": 2, "steps": 3, "batch_size": 3, "examples": 6, "kind": "adamw", "max_grad_norm": "0.3"}
    whole, parted = float_run(toy(**settings)), float_run(toy(**settings))  # type: ignore[arg-type]
    for k in range(3):
        expected = whole.step(k)
        with monkeypatch.context() as few:
            few.setattr("prover.executor.float_model.TOKENS", whole.m.sequence_length)
            assert abs(parted.step(k) - expected) < 1e-12
    assert whole.maxima.keys() == parted.maxima.keys()
    assert all(abs(value - parted.maxima[key]) <= 1e-9 * value for key, value in whole.maxima.items())
    exponents = toy(**settings).manifest.exponents  # type: ignore[arg-type]
    monkeypatch.setattr("prover.executor.float_model.TOKENS", 1)
    assert toy(**settings).manifest.exponents == exponents  # type: ignore[arg-type]


def test_integer_losses_follow_the_float_run() -> None:
    t = toy(layers=2, steps=6, window_steps=6, kind="adamw", max_grad_norm="0.5", schedule="cosine", warmup_steps=1, weight_decay="0.01")
    run, losses = float_run(t), list[float]()
    Trainer(t.manifest, t.base, t.tokens, t.mask).run_window(t.manifest.windows()[0], None, lambda _, loss: losses.append(loss))
    assert np.allclose(losses, [run.step(k) for k in range(6)], rtol=2e-3, atol=0)


def test_norms_have_room() -> None:
    """Row sums of squares near 2^20 of 36 bits, a layer's norm below 2^29 of 40; the exponent is even; factors are right."""
    t = toy(layers=2, steps=4, window_steps=4, kind="adamw", learning_rate="0.01", max_grad_norm="0.5")
    m, f = t.manifest, t.manifest.exponents["norm"]
    run = float_run(t)
    for k in range(4):
        run.step(k)
    row, layer = run.maxima["norm.row"] * 2.0**f, run.maxima["norm.layer"] * 2.0**f
    assert f % 2 == 0 and row <= 2**20 < 2**ROW_BITS and layer <= 2**29 < 2**NORM_BITS and (row > 2**17 or layer > 2**26)
    trace = Trainer(m, t.base, t.tokens, t.mask).run_window(m.windows()[0])
    for s in range(4):
        norm = sum(int(n[s]) for n in trace.norms.values()) ** 0.5 * 2.0 ** (-f / 2)
        assert trace.clip is not None and abs(trace.clip[s] * 2.0**-FACTOR_BITS - min(1.0, 0.5 / (norm + 1e-6))) < 2.0**-FACTOR_BITS * 2


@pytest.mark.parametrize("extra", [1, 3])
def test_extra_headroom_lowers_every_exponent(extra: int) -> None:
    t = toy(layers=1, kind="adamw", max_grad_norm="1")
    found = {n: calibrate(t.manifest, t.base, t.tokens, t.mask, 3, n).exponents for n in (0, extra)}
    for key, value in found[0].items():
        low = found[extra][key]
        if key.startswith(("base", "embedding", "head/W")) or key.endswith(".V"):
            continue
        assert low == value - extra or key.endswith((".du_coarse", ".copy", ".g")) and low <= value or key == "norm", key
    assert found[0]["norm"] - 2 * extra - 1 <= found[extra]["norm"] <= found[0]["norm"] - 2 * extra + 1


@pytest.mark.parametrize("fine", [30, 90])
@pytest.mark.parametrize("optimizer", [{}, {"max_grad_norm": "1"}])
def test_gradients_that_vanish_are_refused_when_a_run_is_planned(fine: int, optimizer: dict[str, str]) -> None:
    """Too small for the relation's bounds, or for an exponent."""
    t = toy(layers=1, **optimizer)
    with pytest.raises(CalibrationError, match="Gradients that nearly vanish"):
        calibrate(replace(t.manifest, exponents=t.manifest.exponents | {"head/W": fine}), t.base, t.tokens, t.mask, 3)


def test_a_long_run_is_calibrated_like_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relations are tried on one window: with all 20,000 steps in one graph they took all memory."""
    t, built = toy(layers=1, window_steps=2), list[int]()

    def spy(manifest: RunManifest, kind: str, window: StepRange, layer: int, part: int) -> object:
        built.append(window.count)
        return build(manifest, kind, window, layer, part=part)

    monkeypatch.setattr("prover.executor.calibrate.build", spy)
    long = replace(t.manifest, steps=20_000, loss_tokens=(1,) * 20_000)
    calibrate(long, t.base, t.tokens, t.mask, 1)
    assert built and max(built) == 2


def test_warm_up_does_not_hide_gradients_from_calibration() -> None:
    """B is 0 at the start: without updates of B, A's gradients would be unseen and their exponent too fine."""
    slow, fast = (toy(layers=1, steps=6, kind="adamw", learning_rate="0.01", warmup_steps=n).manifest.exponents for n in (6, 0))
    assert slow == fast


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_activations_in_float32_show_the_magnitudes_of_float64(kind: str) -> None:
    """To less than a thousandth of a bit; calibration asks for whole ones."""
    t = toy(layers=2, steps=6, kind=kind, max_grad_norm="0.3")
    narrow, wide = (FloatRun(t.manifest, t.base, t.tokens, t.mask, dtype=dtype) for dtype in (torch.float32, torch.float64))
    losses = [(narrow.step(k), wide.step(k)) for k in range(6)]
    assert narrow.adapter["0/q_proj.lora_A"].dtype == torch.float64 and narrow.base["base/0"]["W_q"].dtype == torch.float32
    assert losses[0][0] != losses[0][1] and all(abs(a - b) < 1e-5 * b for a, b in losses)
    assert narrow.maxima.keys() == wide.maxima.keys()
    assert all(abs(narrow.maxima[key] - value) <= 2e-4 * value for key, value in wide.maxima.items())


def test_queries_some_at_a_time_are_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores that are left out are those that nobody sees."""
    t = toy(layers=2, steps=3, sequence_length=8)
    whole, banded = float_run(t), float_run(t)
    for k in range(3):
        expected = whole.step(k)
        with monkeypatch.context() as few:
            few.setattr("prover.executor.float_model.QUERIES", 3)
            assert abs(banded.step(k) - expected) < 1e-12
    assert whole.maxima.keys() == banded.maxima.keys()
    assert all(abs(value - banded.maxima[key]) <= 1e-9 * value for key, value in whole.maxima.items())
