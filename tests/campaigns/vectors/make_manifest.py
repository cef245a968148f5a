"""Vectors of layouts, manifests, statements and orders, whose bytes are written here by json and hashlib."""

import copy
import hashlib
import json
from typing import Any

from tests.campaigns.vectors.make_relation import MODEL
from tests.campaigns.vectors.suite import P, Suite


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def tagged(tag: str, *parts: bytes) -> str:
    return hashlib.sha256(b"verilora/" + tag.encode() + b"\0" + b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()


def layout() -> Suite:
    s = Suite("layout")
    code = {"ell": 8, "n": 32, "blinding": 6}
    for tensors, label in [
        ([["a", [5]]], ""),
        ([["a", [8]], ["b", [3, 4]]], ""),
        ([["W", [6, 10]], ["g", [10]], ["s", [1]]], "f" * 64),
        ([["x", [2, 3, 4]]], ""),
        ([["a", [1]], ["b", [1]], ["c", [2]]], "é"),
        ([["wide", [3, 16]], ["m", [256]]], ""),
    ]:
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
        s.ok(
            "layout.pack",
            {
                "id": tagged("commitment/1", root, compact(geometry)),
                "offsets": {n: o for n, _, o in slots},
                "rows": sorted(rows),
                "variables": max((slots[-1][2] + last - 1).bit_length(), 3),
            },
            tensors=tensors,
            **code,
            label=label,
            root=root.hex(),
        )
    for tensors in ([["a", [2]], ["a", [2]]], [["a", [2]], ["b", [4]], ["a", [8]]]):
        s.bad("layout.pack", "refused", tensors=tensors, **code, label="", root="")
    return s


MODULES = ["q_proj", "v_proj"]
NAMES = ["base/0", "base/1", "dataset", "embedding", "head"]
KINDS = ["adapter", "base", "clip", "dataset", "delivered", "dx", "embedding", "gradient", "head", "loss", "norm", "state", "x"]
WIDTHS = {
    "weight": 12,
    "bias": 16,
    "gamma": 16,
    "embedding": 16,
    "head": 12,
    "activation": 16,
    "residual": 24,
    "gradient": 16,
    "row": 24,
    "du": 24,
    "lora_gradient": 26,
    "momentum": 32,
    "moment": 25,
    "master": 32,
    "delta": 24,
    "compute": 16,
    "probability": 16,
    "vocabulary_probability": 24,
}
DEFAULTS = {
    "kind": "sgd",
    "learning_rate": "0.05",
    "momentum": "0",
    "beta1": "0.9",
    "beta2": "0.999",
    "epsilon": "0.00000001",
    "weight_decay": "0",
    "max_grad_norm": "0",
    "schedule": "constant",
    "warmup_steps": 0,
}
MANIFEST: dict[str, Any] = {
    "version": 4,
    "name": "vector",
    "model": MODEL,
    "lora": {"r": 2, "lora_alpha": 4, "target_modules": MODULES, "use_rslora": False},
    "optimizer": DEFAULTS,
    "batch_size": 2,
    "gradient_accumulation": 1,
    "parts": 1,
    "sequence_length": 5,
    "steps": 3,
    "window_steps": 1,
    "rotation_windows": 0,
    "seed": 7,
    "examples": 6,
    "loss_tokens": [3, 4, 5],
    "publish_loss": True,
    "base_visibility": "private",
    "weight_scales": "tensor",
    "dataset_owner": "",
    "tokenizer_digest": "0" * 64,
    "widths": WIDTHS,
    "exponents": {"x": 14},
    "profile": "goldilocks-2^10",
    "commitments": {name: hashlib.sha256(name.encode()).hexdigest() for name in NAMES},
    "budgets": dict.fromkeys(KINDS, 2),
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
    for data in (
        compact(MANIFEST),
        changed("optimizer.max_grad_norm", "1"),
        changed("rotation_windows", 1),
        changed("lora.use_rslora", True),
        changed("parts", 2),
    ):
        s.ok("manifest.parse", tagged("manifest", data), manifest=data.decode())
    wrong: list[tuple[str, Any]] = [
        ("version", 3),
        ("version", "3"),
        ("batch_size", 0),
        ("batch_size", 4097),
        ("batch_size", 7),
        ("gradient_accumulation", 0),
        ("parts", 0),
        ("parts", 3),
        ("parts", 4),
        ("parts", "2"),
        ("sequence_length", 4097),
        ("steps", 0),
        ("steps", 2),
        ("window_steps", 0),
        ("rotation_windows", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", True),
        ("examples", 1),
        ("loss_tokens", [3, 4]),
        ("loss_tokens", [0, 4, 5]),
        ("loss_tokens", [3, 4, 11]),
        ("loss_tokens", [3, 4, "5"]),
        ("publish_loss", 1),
        ("base_visibility", "hidden"),
        ("weight_scales", "column"),
        ("dataset_owner", "x" * 201),
        ("widths.weight", 8),
        ("widths.activation", 12),
        ("widths.master-", 0),
        ("widths.other", 1),
        ("exponents.x", 97),
        ("exponents.x", "14"),
        ("lora.r", 0),
        ("lora.lora_alpha", 0),
        ("lora.target_modules", []),
        ("lora.target_modules", ["v_proj", "q_proj"]),
        ("lora.target_modules", ["x"]),
        ("lora.target_modules", [1]),
        ("lora.dropout", 0),
        ("optimizer.warmup_steps", 4),
        ("optimizer.momentum-", 0),
        ("commitments.head-", 0),
        ("commitments.extra", "0" * 64),
        ("commitments.head", "0" * 63),
        ("commitments.head", "F" * 64),
        ("budgets.x", "2"),
        ("extra", 1),
        ("name-", 0),
        ("model", {}),
        ("lora", []),
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
    for path, value in [("seed", 7), ("optimizer.max_grad_norm", "1"), ("rotation_windows", 2), ("parts", 2)]:
        data, tasks = changed(path, value), list(ranges)
        for w in range(3):
            if path == "rotation_windows" and w == 2:
                tasks += [(f"rotate({name}@2)", "rotate", w, -1, part) for part, name in enumerate(NAMES)]
            parts = [(1, " part 1"), (2, " part 2")] if path == "parts" else [(0, "")]
            tasks += [(f"embed({w}){text}", "embed", w, -1, p) for p, text in parts]
            for n in range(2):
                tasks += [(f"layer({w}, {n}){text}", "layer", w, n, p) for p, text in parts]
                tasks += [(f"update({w}, {n})", "update", w, n, 0)] if path == "parts" else []
            tasks += [(f"clip({w})", "clip", w, -1, 0)] if path.startswith("optimizer") else []
            tasks += [(f"head({w}){text}", "head", w, -1, p) for p, text in parts]
        s.ok("statement.tasks", statement_ids(data, tasks), manifest=data.decode())
    for path, value in [("budgets.head-", 0), ("budgets.x", 0), ("budgets.base", 99), ("budgets.x", -1)]:
        s.bad("statement.layouts", "manifest", manifest=changed(path, value).decode())
    for name in ("toy", "goldilocks-2^9", ""):
        s.bad("statement.layouts", "parameters", manifest=changed("profile", name).decode())
    data = compact(MANIFEST).decode()
    orders: list[Any] = [{"seed": 7}, {"seed": "7", "lora": {"r": 2, "target_modules": MODULES}, "publish_loss": True}]
    for order in orders:
        s.ok("order.compare", True, manifest=data, order=order)
    bad: list[dict[str, Any]] = [
        {},
        {"lora": {}},
        {"seed": 8},
        {"lora": {"r": 4}},
        {"lora": {"rank": 2}},
        {"seed": {"x": 1}},
        {"publish_loss": "yes"},
        {"widths": 3},
        {"lora": {"target_modules": ["q_proj"]}},
        {"steps": 3, "name": "other"},
        {"commitments": {"dataset": "0" * 64}},
    ]
    for order in bad:
        s.bad("order.compare", "order", manifest=data, order=order)
    return s


def suites() -> list[Suite]:
    return [layout(), manifest(), statement()]
