"""Vectors of tables, rotations, optimizer integers and rounding: real numbers by mpmath with 80 digits, then rounded once."""

from fractions import Fraction
from math import isqrt
from typing import Any

from mpmath import mp, mpf

from tests.campaigns.vectors.suite import Suite, texts

mp.dps = 80
MODEL = {
    "vocab": 23,
    "hidden": 12,
    "layers": 2,
    "heads": 6,
    "kv_heads": 2,
    "head_dim": 4,
    "ffn": 10,
    "rms_eps": "0.00001",
    "rope_theta": "10000",
    "tied": 0,
    "bias": "",
    "qk_norm": 0,
    "rope_scaling": "",
}
SCALED = MODEL | {"head_dim": 8, "rope_theta": "500000", "rope_scaling": "llama3:8:1:4:8192"}


def nearest(x: Any) -> int:
    """⌊x + 1/2⌋."""
    return int(mp.floor(x + mpf(1) / 2))


def tables() -> Suite:
    s = Suite("tables")
    some = [0, 1, 2, 3, 100, 1000, 20000, 65534, 65535]

    def exp(x: int, g: int, bits: int) -> int:
        return nearest(mpf(2) ** bits * mp.exp(-mpf(x) / 2**g))

    for g, bits in [(0, 16), (3, 16), (10, 20), (8, 24)]:
        s.ok("tables.rows", [[x, exp(x, g, bits), exp(x - 1, g, bits)] for x in some], table=f"exp:{g}:{bits}", rows=some)
    for f_in, f_out, f_grad in [(12, 12, 14), (0, 8, 14), (16, 16, 16), (-3, -3, 14)]:
        rows = []
        for row in some:
            x = mpf(row - 32768) / mpf(2) ** f_in
            sigma = 1 / (1 + mp.exp(-x))
            rows.append([row - 32768, nearest(mpf(2) ** f_out * x * sigma), nearest(mpf(2) ** f_grad * (sigma + x * sigma * (1 - sigma)))])
        s.ok("tables.rows", rows, table=f"silu:{f_in}:{f_out}:{f_grad}", rows=some)
    for w in (1, 16):
        s.ok("tables.rows", [[0], [1], [2**w - 1]], table=f"range:{w}", rows=[0, 1, 2**w - 1])
    for name in [
        "range:0",
        "range:17",
        "range:-1",
        "range:1:2",
        "exp:11:20",
        "exp:-1:16",
        "exp:0:25",
        "exp:5:6",
        "exp:3",
        "exp:3:16:1",
        "silu:17:8:14",
        "silu:-4:8:14",
        "silu:8:18:14",
        "silu:8:-4:14",
        "silu:8:8:17",
        "silu:8:8:-1",
        "silu:8:8",
        "cos:4",
    ]:
        s.bad("tables.rows", "relation-error", table=name, rows=[0])
    for name in ["range", "range:x", "exp:3:1.5", ""]:
        s.bad("tables.rows", "relation-error" if ":" not in name else "refused", table=name, rows=[0])
    return s


def rope() -> Suite:
    s = Suite("rope")
    for model, positions, query in [
        (MODEL, 3, False),
        (MODEL, 3, True),
        (SCALED, 5, False),
        (SCALED, 2, True),
        (MODEL | {"head_dim": 6, "rope_theta": "1000000"}, 4, False),
    ]:
        half, theta = model["head_dim"] // 2, mpf(model["rope_theta"])
        freqs = [theta ** (-mpf(i) / half) for i in range(half)]
        if model["rope_scaling"]:
            factor, low, high, context = map(mpf, model["rope_scaling"].split(":")[1:])
            shares = [min(max((context * f / (2 * mp.pi) - low) / (high - low), mpf(0)), mpf(1)) for f in freqs]
            freqs = [f * (a + (1 - a) / factor) for f, a in zip(freqs, shares, strict=True)]
        scale = mpf(2) ** (14 + (model["head_dim"].bit_length() - 1) // 2) / mp.sqrt(model["head_dim"]) if query else mpf(2) ** 14
        rows = [[[nearest(scale * f(t * x)) for x in freqs] * 2 for t in range(positions)] for f in (mp.cos, mp.sin)]
        s.ok("rope.tables", rows, model=model, positions=positions, query=query)
    s.ok("model.new", [24, 12], model=MODEL)
    s.ok("model.new", [48, 12], model=SCALED)
    wrong: list[dict[str, Any]] = [
        {"vocab": 0},
        {"vocab": True},
        {"hidden": 2**18 + 1},
        {"layers": 1025},
        {"heads": 5},
        {"head_dim": 5},
        {"ffn": "10"},
        {"rms_eps": "0"},
        {"rms_eps": "1e-5"},
        {"rms_eps": 1},
        {"rms_eps": "0.000010"},
        {"rope_theta": "-1"},
        {"rope_theta": "010"},
        {"tied": 2},
        {"tied": -1},
        {"bias": "k_proj,q_proj"},
        {"bias": "x"},
        {"bias": 0},
        {"qk_norm": 2},
        {"rope_scaling": "yarn:8:1:4:8192"},
        {"rope_scaling": "llama3:8:1:4"},
        {"rope_scaling": "llama3:0.5:1:4:8192"},
        {"rope_scaling": "llama3:8:4:4:8192"},
        {"rope_scaling": "llama3:8:0:4:8192"},
        {"rope_scaling": "llama3:8:1:4:0"},
        {"rope_scaling": 1},
        {"extra": 1},
        {"kv_heads": -2},
    ]
    for change in wrong:
        s.bad("model.new", "malformed model configuration", model=MODEL | change)
    s.bad("model.new", "malformed model configuration", model={k: v for k, v in MODEL.items() if k != "ffn"})
    s.bad("model.new", "malformed model configuration", model=[])
    return s


SGD: dict[str, Any] = {"kind": "sgd", "learning_rate": "0.05", "momentum": "0.9"}
ADAMW: dict[str, Any] = {"kind": "adamw", "learning_rate": "0.0002", "weight_decay": "0.01", "schedule": "cosine", "warmup_steps": 2}


def exponent(value: Any) -> int:
    """e with 2^14 ≤ round(value·2^e) < 2^15."""
    e = 14 - int(mp.floor(mp.log(value, 2)))
    return e - 1 if nearest(value * mpf(2) ** e) >= 1 << 15 else e


def rate(o: dict[str, Any], k: int, steps: int) -> Any:
    warm, peak = o.get("warmup_steps", 0), mpf(o["learning_rate"])
    if k < warm:
        return peak * k / warm
    done = mpf(k - warm) / max(steps - warm, 1)
    return {"constant": peak, "linear": peak * (1 - done), "cosine": peak * (1 + mp.cos(mp.pi * done)) / 2}[o.get("schedule", "constant")]


def optimizer() -> Suite:
    s = Suite("optimizer")
    for o, first, count, steps in [
        (SGD, 0, 3, 3),
        (SGD | {"momentum": "0"}, 5, 1, 9),
        (SGD | {"schedule": "linear", "warmup_steps": 3}, 0, 8, 8),
        (SGD | {"learning_rate": "1024"}, 0, 1, 1),
        (SGD | {"learning_rate": "0.000000000001"}, 1, 2, 4),
        (ADAMW, 0, 6, 7),
        (ADAMW | {"weight_decay": "0", "schedule": "constant"}, 1000, 2, 2000),
        (ADAMW | {"beta1": "0", "beta2": "0.5", "epsilon": "1"}, 2, 3, 9),
        (ADAMW | {"beta2": "0.99999"}, 0, 2, 100000),
    ]:
        steps_here, rates = range(first, first + count), [rate(o, k, steps) for k in range(first, first + count)]
        e, scale = exponent(mpf(o["learning_rate"])), 30
        out: dict[str, Any] = {
            "momentum": round(Fraction(o.get("momentum", "0")) * 65536),
            "rates": [[nearest(x * mpf(2) ** e) for x in rates], e],
        }
        if o["kind"] == "adamw":
            b1, b2 = (mpf(o.get(n, d)) for n, d in (("beta1", "0.9"), ("beta2", "0.999")))
            roots = [mp.sqrt(1 - b2 ** (k + 1)) for k in steps_here]
            gains = [x * r / (1 - b1 ** (k + 1)) for x, r, k in zip(rates, roots, steps_here, strict=True)]
            out["gains"] = texts([nearest(g * 2**scale) for g in gains])
            out["epsilons"] = texts([max(1, nearest(mpf(o.get("epsilon", "0.00000001")) * r * 2**scale)) for r in roots])
            for name, bits in (("beta1", 16), ("beta2", 12)):
                rest = 1 - Fraction(o.get(name, {"beta1": "0.9", "beta2": "0.999"}[name]))
                e2 = next(x for x in range(64) if 1 << bits - 1 <= round(rest * 2**x)) if rest < 1 else bits - 1
                out[name] = [round(rest * 2**e2), e2]
            if o.get("weight_decay", "0") != "0":
                decay = mpf(o["weight_decay"])
                e3 = exponent(mpf(o["learning_rate"]) * decay)
                out["decays"] = [[nearest(x * decay * mpf(2) ** e3) for x in rates], e3]
        s.ok("optimizer.integers", out, optimizer=o, first=first, count=count, steps=steps, scale=scale)
    wrong: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (SGD, c)
        for c in (
            {"kind": "adam"},
            {"kind": ""},
            {"learning_rate": "0"},
            {"learning_rate": "1024.5"},
            {"learning_rate": "0.0000000000009"},
            {"learning_rate": "1e-3"},
            {"learning_rate": ".5"},
            {"learning_rate": "0.50"},
            {"learning_rate": "00.5"},
            {"learning_rate": "-1"},
            {"learning_rate": 1},
            {"momentum": "1"},
            {"momentum": "0.99999"},
            {"momentum": ""},
            {"beta1": "0.8"},
            {"beta2": "0.99"},
            {"epsilon": "0.1"},
            {"weight_decay": "0.1"},
            {"schedule": "step"},
            {"warmup_steps": -1},
            {"warmup_steps": True},
            {"warmup_steps": 1 << 20},
            {"warmup_steps": "1"},
            {"max_grad_norm": "1000001"},
            {"max_grad_norm": "1,0"},
        )
    ] + [
        (ADAMW, c)
        for c in ({"momentum": "0.9"}, {"beta1": "1"}, {"beta2": "0.49"}, {"beta2": "0.999999"}, {"epsilon": "0"}, {"weight_decay": "1.1"})
    ]
    for base, change in wrong:
        s.bad("optimizer.integers", "manifest", optimizer=base | change, first=0, count=1, steps=1, scale=8)
    return s


def rounding() -> Suite:
    s = Suite("rounding")
    for z, shift, bits, signed in [
        ([7, 8, 9, -7, -8, -9, 0], 4, 8, True),
        ([3, -3], 0, 8, True),
        ([1, -2], -3, 8, True),
        ([0, 255, 256], 8, 1, False),
        ([2**40, -(2**40) + 1], 20, 24, True),
        ([2**31 - 1], 16, 17, True),
        ([5, 6], 1, 4, False),
    ]:
        y = [(v + (1 << shift - 1)) >> shift if shift > 0 else v << -shift for v in z]
        given = {"z": z, "shift": shift, "bits": bits, "signed": signed}
        s.ok("relation.rescale", "satisfied", **given, y=y)
        for at, delta in ((0, 1), (len(z) - 1, -1)):
            s.bad("relation.rescale", "unsatisfied", **given, y=[v + delta * (i == at) for i, v in enumerate(y)])
    s.bad("relation.rescale", "unsatisfied", z=[128 << 4], shift=4, bits=8, signed=True, y=[128])
    s.bad("relation.rescale", "unsatisfied", z=[-16], shift=4, bits=8, signed=False, y=[-1])
    s.bad("relation.rescale", "relation-error", z=[1], z_bounds=[0, 2**62], shift=4, bits=8, signed=True, y=[0])
    for bits, good, bad in [
        (1, [0, 1], [2]),
        (16, [65535], [65536]),
        (17, [0, 131071], [131072]),
        (40, [2**40 - 1], [2**40]),
        (33, [2**33 - 1], [-1]),
    ]:
        s.ok("relation.range", "satisfied", t=good, bits=bits, t_bounds=[-(2**50), 2**50])
        s.bad("relation.range", "unsatisfied", t=bad, bits=bits, t_bounds=[-(2**50), 2**50])
    for v in ([0, 1, 2, 3, 4, 15, 16, 17], [2**55 - 1, 2**54], [24, 25, 26]):
        root = [isqrt(x) for x in v]
        s.ok("relation.isqrt", "satisfied", v=v, v_bounds=[0, 2**56 - 1], root=root)
        for delta in (1, -1):
            s.bad("relation.isqrt", "unsatisfied", v=v, v_bounds=[0, 2**56 - 1], root=[*root[:-1], root[-1] + delta])
    s.bad("relation.isqrt", "relation-error", v=[0], v_bounds=[-1, 9], root=[0])
    for n, d in [([7, -7, 5, -5, 0], [2, 2, 10, 10, 3]), ([2**40 + 1, -(2**40)], [2**20, 3]), ([1], [1])]:
        y = [(2 * a + b) // (2 * b) for a, b in zip(n, d, strict=True)]
        s.ok("relation.divide", "satisfied", n=n, d=d, bits=41, y=y)
        for delta in (1, -1):
            s.bad("relation.divide", "unsatisfied", n=n, d=d, bits=41, y=[y[0] + delta, *y[1:]])
    s.bad("relation.divide", "relation-error", n=[1], d=[1], d_bounds=[0, 3], bits=8, y=[1])
    s.bad("relation.divide", "relation-error", n=[1], d=[1], d_bounds=[-3, 3], bits=8, y=[1])
    s.bad("relation.divide", "unsatisfied", n=[300], d=[1], bits=8, y=[300])
    return s


def suites() -> list[Suite]:
    return [tables(), rope(), optimizer(), rounding()]
