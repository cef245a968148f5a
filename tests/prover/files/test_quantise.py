"""Quantisation against exact rational arithmetic, and the order of heads against Hugging Face's definition."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from protocol.manifest import WIDTHS
from protocol.relation.base import ROW_BITS
from prover.files.groups import KEEP_BYTES, Groups
from prover.files.hf_model import open_model
from prover.files.quantise import Quantised, dequantise, fold, quantise, quantise_base, quantise_layer, quantise_rows

FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=2, max_side=5), elements=FLOAT32), st.integers(2, 32))
def test_equation_in_rationals(x: np.ndarray, bits: int) -> None:
    values, exponent = quantise(x, bits)
    limit = 2 ** (bits - 1) - 1
    exact = [Fraction(float(v)) for v in x.ravel()]
    # Python's round() of a Fraction is to the nearest integer, ties to even.
    assert values.ravel().tolist() == [round(v * Fraction(2) ** exponent) for v in exact]
    assert values.dtype == np.int64 and np.abs(values).max() <= limit
    if any(exact):
        assert max(abs(round(v * Fraction(2) ** (exponent + 1))) for v in exact) > limit
    else:
        assert exponent == 0


def test_ties_edges_and_refusals() -> None:
    assert quantise(np.array([7.0, 2.5, 1.5, -0.5]), 4) == (pytest.approx([7, 2, 2, 0]), 0)
    # 2047.5/2048 would round up to 2048, one more than 12 bits hold.
    assert quantise(np.array([2047.5]), 12).exponent == -1
    assert quantise(np.array([2047.0]), 12).exponent == 0
    assert quantise(np.array([1.0]), 12, largest_exponent=3) == (8, 3)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            quantise(np.array([bad]), 12)


@settings(max_examples=100, deadline=None)
@given(st.floats(width=32, min_value=-2.0**60, max_value=2.0**60), st.floats(width=32, min_value=-2.0**60, max_value=2.0**60))
def test_folding_is_exact(weight: float, gamma: float) -> None:
    product = fold(np.array([[weight]], dtype=np.float32), np.array([gamma], dtype=np.float32))[0, 0]
    assert Fraction(float(product)) == Fraction(weight) * Fraction(gamma)


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (3, 2, 4), elements=FLOAT32), st.sampled_from([12, 16]))
def test_scales_by_row(x: np.ndarray, bits: int) -> None:
    (values, exponent), (scale, none) = quantise_rows(x, bits, 2)
    limit, top = 2 ** (bits - 1) - 1, 2 ** (ROW_BITS - bits) - 1
    assert scale.shape == (3, 2) and none == 0 and np.abs(values).max() <= limit and 1 <= scale.min() <= scale.max() <= top
    if x.any():
        finer = np.abs(x.astype(np.float64)).max() / limit * 2.0 ** (exponent + 1)
        assert finer > top  # one more fractional bit and the largest row's scale would not fit
    for cell in np.ndindex(x.shape):
        unit = Fraction(int(scale[cell[:2]])) / Fraction(2) ** exponent
        assert abs(Fraction(float(x[cell])) - int(values[cell]) * unit) <= unit / 2 * (1 + Fraction(1, 2**40))
    rows = np.abs(x).max(axis=-1) > np.abs(x).max() / top
    assert (np.abs(values).max(axis=-1)[rows] > limit / 2).all()  # a row uses its bits


def test_layer_names_shapes_heads_and_norms(small: Any) -> None:
    model = open_model(small.write())
    config, raw = model.config, model.layer(0)
    layer = quantise_layer(config, raw, WIDTHS)
    assert {name: q.values.shape for name, q in layer.items()} == {
        "W_q": (3, 2, 4, 12), "W_k": (3, 4, 12), "W_v": (3, 4, 12), "W_o": (12, 3, 2, 4), "W_gate": (20, 12),
        "W_up": (20, 12), "W_down": (12, 20), "gamma_attn": (12,), "gamma_mlp": (12,),
    }
    for name, q in layer.items():
        peak, bits = np.abs(q.values).max(), 16 if name.startswith("gamma") else 12
        assert 2 ** (bits - 2) - 1 <= peak <= 2 ** (bits - 1) - 1
    gamma = raw["input_layernorm"].astype(np.float64)
    for h in range(config.heads):
        g, q = divmod(h, config.queries_per_group)  # repeat_kv: kv head g serves heads g·Q … g·Q + Q − 1
        rows = slice(h * config.head_dim, (h + 1) * config.head_dim)
        step = 2.0 ** -layer["W_q"].exponent
        assert np.abs(dequantise(layer["W_q"])[g, q] - raw["q_proj"][rows] * gamma).max() <= step / 2
        step = 2.0 ** -layer["W_o"].exponent
        assert np.abs(dequantise(layer["W_o"])[:, g, q] - raw["o_proj"][:, rows]).max() <= step / 2
    gate = dequantise(layer["W_gate"]) - raw["gate_proj"] * raw["post_attention_layernorm"].astype(np.float64)
    assert np.abs(gate).max() <= 2.0 ** -(layer["W_gate"].exponent + 1)


def test_embedding_and_head(small: Any) -> None:
    model = open_model(small.write())
    base, exponents = quantise_base(model, WIDTHS | {"head": 16})
    assert 2**14 - 1 <= np.abs(base["embedding"]["E"]).max() < 2**15 and 2**14 - 1 <= np.abs(base["head"]["W"]).max() < 2**15
    head = Quantised(base["head"]["W"], exponents["head/W"])
    exact = model.head().astype(np.float64) * model.final_norm()
    assert np.abs(dequantise(head) - exact).max() <= 2.0 ** -(head.exponent + 1)


def test_groups_are_made_when_asked_for_and_kept_within_bytes() -> None:
    made: list[str] = []

    def make(name: str) -> dict[str, np.ndarray]:
        made.append(name)
        return {"W": np.full((8,), int(name) * 1000, dtype=np.int64), "E": np.arange(-3, 4)}

    groups = Groups(["0", "1", "40000000"], make, keep=2 * (8 * 2 + 7))
    assert list(groups) == ["0", "1", "40000000"] and made == []
    for name in ("0", "1", "0", "1", "40000000", "1", "40000000"):
        found = groups[name]
        assert {k: v.dtype for k, v in found.items()} == {"W": np.int64, "E": np.int64}
        assert (found["W"] == int(name) * 1000).all() and (found["E"] == np.arange(-3, 4)).all()
        found["W"][0] = -1  # a caller's copy: the next one gets the group as it is
    assert made == ["0", "1", "40000000", "1", "40000000"]  # 0 and 1 fit together (int8 and int16), 40000000 needs 64 bits beside nothing
    with pytest.raises(KeyError):
        groups["2"]


def test_a_base_that_is_not_kept_is_the_same(small: Any) -> None:
    model = open_model(small.write())
    (held, exponents), (streamed, again) = (quantise_base(model, WIDTHS, "row", keep) for keep in (KEEP_BYTES, 0))
    assert exponents == again and list(held) == list(streamed) == ["base/0", "base/1", "embedding", "head"]
    for name, group in held.items():
        assert all((group[k] == values).all() and values.dtype == np.int64 for k, values in streamed[name].items())


def test_parts_of_a_large_tensor_are_rounded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).normal(size=(7, 5, 3)).astype(np.float32)
    whole = quantise(x, 12)
    monkeypatch.setattr("prover.files.quantise.PART", 30)
    parts = quantise(x, 12)
    assert parts.exponent == whole.exponent and (parts.values == whole.values).all()
    assert quantise(np.float32(0.75), 12).values == 1536 and quantise(np.zeros((0, 3)), 12).values.shape == (0, 3)
