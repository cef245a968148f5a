"""Vectors of tables, rotations, optimizer integers and rounding: real numbers by mpmath with 80 digits, then rounded once.

Also layouts, manifests, statements and orders, whose bytes are written here by json and hashlib.
"""

import copy
import hashlib
import json
from fractions import Fraction
from math import isqrt
from typing import Any

from mpmath import mp, mpf

from tests.campaigns.vectors.suite import P, Suite, texts

mp.dps = 80
MODEL = {"vocab": 23, "hidden": 12, "layers": 2, "heads": 6, "kv_heads": 2, "head_dim": 4, "ffn": 10, "rms_eps": "0.00001",
         "rope_theta": "10000", "tied": 0, "bias": "", "qk_norm": 0, "rope_scaling": ""}
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
    for name in ["range:0", "range:17", "range:-1", "range:1:2", "exp:11:20", "exp:-1:16", "exp:0:25", "exp:5:6", "exp:3", "exp:3:16:1", "silu:17:8:14",
                 "silu:-4:8:14", "silu:8:18:14", "silu:8:-4:14", "silu:8:8:17", "silu:8:8:-1", "silu:8:8", "cos:4"]:
        s.bad("tables.rows", "relation-error", table=name, rows=[0])
    for name in ["range", "range:x", "exp:3:1.5", ""]:
        s.bad("tables.rows", "relation-error" if ":" not in name else "refused", table=name, rows=[0])
    return s


def rope() -> Suite:
    s = Suite("rope")
    for model, positions, query in [(MODEL, 3, False), (MODEL, 3, True), (SCALED, 5, False), (SCALED, 2, True),
                                    (MODEL | {"head_dim": 6, "rope_theta": "1000000"}, 4, False)]:
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
        {"vocab": 0}, {"vocab": True}, {"hidden": 2**18 + 1}, {"layers": 1025}, {"heads": 5}, {"head_dim": 5}, {"ffn": "10"}, {"rms_eps": "0"},
        {"rms_eps": "1e-5"}, {"rms_eps": 1}, {"rms_eps": "0.000010"}, {"rope_theta": "-1"}, {"rope_theta": "010"}, {"tied": 2}, {"tied": -1},
        {"bias": "k_proj,q_proj"}, {"bias": "x"}, {"bias": 0}, {"qk_norm": 2}, {"rope_scaling": "yarn:8:1:4:8192"}, {"rope_scaling": "llama3:8:1:4"},
        {"rope_scaling": "llama3:0.5:1:4:8192"}, {"rope_scaling": "llama3:8:4:4:8192"}, {"rope_scaling": "llama3:8:0:4:8192"},
        {"rope_scaling": "llama3:8:1:4:0"}, {"rope_scaling": 1}, {"extra": 1}, {"kv_heads": -2},
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
    for o, first, count, steps in [(SGD, 0, 3, 3), (SGD | {"momentum": "0"}, 5, 1, 9), (SGD | {"schedule": "linear", "warmup_steps": 3}, 0, 8, 8),
                                   (SGD | {"learning_rate": "1024"}, 0, 1, 1), (SGD | {"learning_rate": "0.000000000001"}, 1, 2, 4),
                                   (ADAMW, 0, 6, 7), (ADAMW | {"weight_decay": "0", "schedule": "constant"}, 1000, 2, 2000),
                                   (ADAMW | {"beta1": "0", "beta2": "0.5", "epsilon": "1"}, 2, 3, 9), (ADAMW | {"beta2": "0.99999"}, 0, 2, 100000)]:
        steps_here, rates = range(first, first + count), [rate(o, k, steps) for k in range(first, first + count)]
        e, scale = exponent(mpf(o["learning_rate"])), 30
        out: dict[str, Any] = {"momentum": round(Fraction(o.get("momentum", "0")) * 65536), "rates": [[nearest(x * mpf(2) ** e) for x in rates], e]}
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
        (SGD, c) for c in ({"kind": "adam"}, {"kind": ""}, {"learning_rate": "0"}, {"learning_rate": "1024.5"}, {"learning_rate": "0.0000000000009"},
                           {"learning_rate": "1e-3"}, {"learning_rate": ".5"}, {"learning_rate": "0.50"}, {"learning_rate": "00.5"},
                           {"learning_rate": "-1"}, {"learning_rate": 1}, {"momentum": "1"}, {"momentum": "0.99999"}, {"momentum": ""},
                           {"beta1": "0.8"}, {"beta2": "0.99"}, {"epsilon": "0.1"}, {"weight_decay": "0.1"}, {"schedule": "step"},
                           {"warmup_steps": -1}, {"warmup_steps": True}, {"warmup_steps": 1 << 20}, {"warmup_steps": "1"},
                           {"max_grad_norm": "1000001"}, {"max_grad_norm": "1,0"})
    ] + [(ADAMW, c) for c in ({"momentum": "0.9"}, {"beta1": "1"}, {"beta2": "0.49"}, {"beta2": "0.999999"}, {"epsilon": "0"}, {"weight_decay": "1.1"})]
    for base, change in wrong:
        s.bad("optimizer.integers", "manifest", optimizer=base | change, first=0, count=1, steps=1, scale=8)
    return s


def rounding() -> Suite:
    s = Suite("rounding")
    for z, shift, bits, signed in [([7, 8, 9, -7, -8, -9, 0], 4, 8, True), ([3, -3], 0, 8, True), ([1, -2], -3, 8, True), ([0, 255, 256], 8, 1, False),
                                   ([2**40, -(2**40) + 1], 20, 24, True), ([2**31 - 1], 16, 17, True), ([5, 6], 1, 4, False)]:
        y = [(v + (1 << shift - 1)) >> shift if shift > 0 else v << -shift for v in z]
        given = {"z": z, "shift": shift, "bits": bits, "signed": signed}
        s.ok("relation.rescale", "satisfied", **given, y=y)
        for at, delta in ((0, 1), (len(z) - 1, -1)):
            s.bad("relation.rescale", "unsatisfied", **given, y=[v + delta * (i == at) for i, v in enumerate(y)])
    s.bad("relation.rescale", "unsatisfied", z=[128 << 4], shift=4, bits=8, signed=True, y=[128])
    s.bad("relation.rescale", "unsatisfied", z=[-16], shift=4, bits=8, signed=False, y=[-1])
    s.bad("relation.rescale", "relation-error", z=[1], z_bounds=[0, 2**62], shift=4, bits=8, signed=True, y=[0])
    for bits, good, bad in [(1, [0, 1], [2]), (16, [65535], [65536]), (17, [0, 131071], [131072]), (40, [2**40 - 1], [2**40]), (33, [2**33 - 1], [-1])]:
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


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def tagged(tag: str, *parts: bytes) -> str:
    return hashlib.sha256(b"verilora/" + tag.encode() + b"\0" + b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()


def layout() -> Suite:
    s = Suite("layout")
    code = {"ell": 8, "n": 32, "blinding": 6}
    for tensors, label in [([["a", [5]]], ""), ([["a", [8]], ["b", [3, 4]]], ""), ([["W", [6, 10]], ["g", [10]], ["s", [1]]], "f" * 64),
                           ([["x", [2, 3, 4]]], ""), ([["a", [1]], ["b", [1]], ["c", [2]]], "é"), ([["wide", [3, 16]], ["m", [256]]], "")]:
        slots, offset, rows = [], 0, set()
        parts = {name: [(n // (n & -n), (n & -n)) for n in shape] for name, shape in tensors}
        size = {name: sum((odd - 1).bit_length() + low.bit_length() - 1 for odd, low in p) for name, p in parts.items()}
        for name, shape in sorted(tensors, key=lambda t: -size[t[0]]):
            slots.append([name, shape, offset])
            block = sum(low.bit_length() - 1 for _, low in parts[name])
            blocks = [0]
            for odd, _ in parts[name]:
                blocks = [(b << (odd - 1).bit_length()) + i for b in blocks for i in range(odd)]
            rows |= {(offset + (b << block) + i) // code["ell"] for b in blocks for i in range(1 << block)}
            offset += 1 << size[name]
        last = 1 << size[slots[-1][0]]
        geometry = {"field": [P, 7], **code, "tensors": slots, "label": label}
        root = hashlib.sha256(label.encode()).digest()
        s.ok("layout.pack", {"id": tagged("commitment/1", root, compact(geometry)), "offsets": {n: o for n, _, o in slots}, "rows": sorted(rows),
                             "variables": max((slots[-1][2] + last - 1).bit_length(), 3)}, tensors=tensors, **code, label=label, root=root.hex())
    for tensors in ([["a", [2]], ["a", [2]]], [["a", [2]], ["b", [4]], ["a", [8]]]):
        s.bad("layout.pack", "refused", tensors=tensors, **code, label="", root="")
    return s


MODULES = ["q_proj", "v_proj"]
NAMES = ["base/0", "base/1", "dataset", "embedding", "head"]
KINDS = ["base", "clip", "dataset", "delivered", "dx", "embedding", "head", "norm", "state", "x"]
WIDTHS = {"weight": 12, "bias": 16, "gamma": 16, "embedding": 16, "head": 12, "activation": 16, "residual": 24, "gradient": 16, "row": 24, "du": 24,
          "lora_gradient": 26, "momentum": 32, "moment": 25, "master": 32, "delta": 24, "compute": 16, "probability": 16, "vocabulary_probability": 24}
DEFAULTS = {"kind": "sgd", "learning_rate": "0.05", "momentum": "0", "beta1": "0.9", "beta2": "0.999", "epsilon": "0.00000001", "weight_decay": "0",
            "max_grad_norm": "0", "schedule": "constant", "warmup_steps": 0}
MANIFEST: dict[str, Any] = {
    "version": 2, "name": "vector", "model": MODEL, "lora": {"r": 2, "lora_alpha": 4, "target_modules": MODULES, "use_rslora": False},
    "optimizer": DEFAULTS, "batch_size": 2, "gradient_accumulation": 1, "sequence_length": 5, "steps": 3, "window_steps": 1, "rotation_windows": 0,
    "seed": 7, "examples": 6, "loss_tokens": [3, 4, 5], "publish_loss": True, "base_visibility": "private", "weight_scales": "tensor",
    "dataset_owner": "", "tokenizer_digest": "0" * 64, "widths": WIDTHS, "exponents": {"x": 14}, "profile": "goldilocks-2^10",
    "commitments": {name: hashlib.sha256(name.encode()).hexdigest() for name in NAMES}, "budgets": dict.fromkeys(KINDS, 2),
}


def changed(path: str, value: Any) -> bytes:
    """The manifest with one value set; a path that ends with "-" removes the key."""
    out = copy.deepcopy(MANIFEST)
    *parents, key = path.rstrip("-").split(".")
    place = out
    for parent in parents:
        place = place[parent]
    if path.endswith("-"):
        del place[key]
    else:
        place[key] = value
    return compact(out)


def manifest() -> Suite:
    s = Suite("manifest")
    for data in (compact(MANIFEST), changed("optimizer.max_grad_norm", "1"), changed("rotation_windows", 1), changed("lora.use_rslora", True)):
        s.ok("manifest.parse", tagged("manifest", data), manifest=data.decode())
    wrong: list[tuple[str, Any]] = [
        ("version", 1), ("version", "2"), ("batch_size", 0), ("batch_size", 4097), ("batch_size", 7), ("gradient_accumulation", 0),
        ("sequence_length", 4097), ("steps", 0), ("steps", 2), ("window_steps", 0), ("rotation_windows", -1), ("seed", -1), ("seed", 2**63), ("seed", True),
        ("examples", 1), ("loss_tokens", [3, 4]), ("loss_tokens", [0, 4, 5]), ("loss_tokens", [3, 4, 11]), ("loss_tokens", [3, 4, "5"]),
        ("publish_loss", 1), ("base_visibility", "hidden"), ("weight_scales", "column"), ("dataset_owner", "x" * 201), ("widths.weight", 8),
        ("widths.activation", 12), ("widths.master-", 0), ("widths.other", 1), ("exponents.x", 97), ("exponents.x", "14"), ("lora.r", 0),
        ("lora.lora_alpha", 0), ("lora.target_modules", []), ("lora.target_modules", ["v_proj", "q_proj"]), ("lora.target_modules", ["x"]),
        ("lora.target_modules", [1]), ("lora.dropout", 0), ("optimizer.warmup_steps", 4), ("optimizer.momentum-", 0), ("commitments.head-", 0),
        ("commitments.extra", "0" * 64), ("commitments.head", "0" * 63), ("commitments.head", "F" * 64), ("budgets.x", "2"), ("extra", 1), ("name-", 0),
        ("model", {}), ("lora", []),
    ]
    for path, value in wrong:
        s.bad("manifest.parse", "malformed model configuration" if path == "model" else "manifest", manifest=changed(path, value).decode())
    s.bad("manifest.parse", "malformed", manifest=changed("seed", 7.5).decode())
    s.bad("manifest.parse", "manifest", manifest="[]")
    s.bad("manifest.parse", "non-canonical", manifest=compact(MANIFEST).decode() + "\n")
    s.bad("manifest.parse", "malformed", manifest=compact(MANIFEST)[:-1].decode())
    return s


def statement_ids(data: bytes, tasks: list[tuple[str, str, int, int, int]]) -> list[list[str]]:
    digest = tagged("manifest", data).encode()
    return [[name, tagged("statement/1", digest, compact([kind, window, layer, part]))] for name, kind, window, layer, part in tasks]


def statement() -> Suite:
    s = Suite("statement")
    ranges = [(f"range({name})", "range", -1, -1, part) for part, name in enumerate(NAMES)]
    for path, value in [("seed", 7), ("optimizer.max_grad_norm", "1"), ("rotation_windows", 2)]:
        data, tasks = changed(path, value), list(ranges)
        for w in range(3):
            if path == "rotation_windows" and w == 2:
                tasks += [(f"rotate({name}@2)", "rotate", w, -1, part) for part, name in enumerate(NAMES)]
            tasks += [(f"embed({w})", "embed", w, -1, 0), (f"layer({w}, 0)", "layer", w, 0, 0), (f"layer({w}, 1)", "layer", w, 1, 0)]
            tasks += [(f"clip({w})", "clip", w, -1, 0)] if path.startswith("optimizer") else []
            tasks += [(f"head({w})", "head", w, -1, 0)]
        s.ok("statement.tasks", statement_ids(data, tasks), manifest=data.decode())
    for path, value in [("budgets.head-", 0), ("budgets.x", 0), ("budgets.base", 99), ("budgets.x", -1)]:
        s.bad("statement.layouts", "manifest", manifest=changed(path, value).decode())
    for name in ("toy", "goldilocks-2^9", ""):
        s.bad("statement.layouts", "parameters", manifest=changed("profile", name).decode())
    data = compact(MANIFEST).decode()
    orders: list[tuple[Any, int]] = [({"seed": 7}, 1), ({"seed": "7", "lora": {"r": 2, "target_modules": MODULES}, "publish_loss": True}, 4)]
    for order, count in orders:
        s.ok("order.compare", count, manifest=data, order=order)
    bad: list[dict[str, Any]] = [{}, {"seed": 8}, {"lora": {"r": 4}}, {"lora": {"rank": 2}}, {"seed": {"x": 1}}, {"publish_loss": "yes"}, {"widths": 3},
                                 {"lora": {"target_modules": ["q_proj"]}}, {"steps": 3, "name": "other"}, {"commitments": {"dataset": "0" * 64}}]
    for order in bad:
        s.bad("order.compare", "order", manifest=data, order=order)
    return s


def suites() -> list[Suite]:
    return [tables(), rope(), optimizer(), rounding(), layout(), manifest(), statement()]
