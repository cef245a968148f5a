"""What the rows of a run claim, read without believing it: manifest, loss of each step, soundness of each proof.

A row is whatever the ledger's owner wrote. Everything here accepts any text, returns what it can make sense of, and is labelled
as a claim by whoever shows it; only a verifier turns claims into verdicts. The loss of a step follows from its window's head
statement as

    loss(step) = published sum over the step's loss tokens · 2^−g / number of loss tokens      (g = exponent "head/vocab.g"; nats)

which the head task proves, once it is verified. Called by api/ and cli/ledger.py; imports no web framework.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from storage.models import StatementRow

MAX_STEPS = 20_000  # points of a curve that anybody looks at


@dataclass(frozen=True)
class LossPoint:
    """A step's loss as its statement claims it."""

    step: int
    loss: float
    statement_id: str


@dataclass(frozen=True)
class Claimed:
    """Soundness of a proof as its row claims it: the least source, the sum, and hundredths of a bit by source."""

    bits: int
    total_bits: int
    centibits: Mapping[str, int]


def json_object(text: str) -> dict[str, Any]:
    """A JSON object; {} for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def part(value: Mapping[str, Any], *keys: str) -> Any:
    """value[key][key]…, or None where there is none."""
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def whole(value: Any, low: int, high: int, default: int) -> int:
    """`value` if it is an integer in range, else the default."""
    return value if type(value) is int and low <= value <= high else default


def window_steps(manifest: Mapping[str, Any]) -> int:
    """Steps of a window."""
    return whole(manifest.get("window_steps"), 1, 1 << 12, 1)


def layers(manifest: Mapping[str, Any]) -> int:
    """Layers of the model; 0 if the manifest does not say."""
    return whole(part(manifest, "model", "layers"), 1, 1 << 10, 0)


def windows(manifest: Mapping[str, Any]) -> int:
    """Number of windows; 0 if the manifest does not say."""
    return -(-whole(manifest.get("steps"), 1, 1 << 20, 0) // window_steps(manifest))


def parts(manifest: Mapping[str, Any]) -> int:
    """Tasks that share the sequences of a step."""
    return whole(manifest.get("parts"), 1, 1 << 12, 1)


def losses(manifest: Mapping[str, Any], heads: Iterable[StatementRow]) -> list[LossPoint]:
    """The loss of every step, as the statements of head tasks claim it; a statement that makes no sense has no points."""
    tokens = manifest.get("loss_tokens")
    tokens = tokens if isinstance(tokens, list) else []
    unit = Fraction(2) ** -whole(part(manifest, "exponents", "head/vocab.g"), -96, 96, 0)
    points: dict[int, LossPoint] = {}
    for row in heads:
        published = part(json_object(row.content), "published", "loss")
        for step, total in enumerate(published if isinstance(published, list) else [], row.window * window_steps(manifest)):
            count = whole(tokens[step] if 0 <= step < len(tokens) else None, 1, 1 << 24, 0)
            if count and type(total) is int and abs(total) < 1 << 64 and len(points) < MAX_STEPS:
                points[step] = LossPoint(step, round(float(total * unit / count), 6), row.statement_id)
    return [points[step] for step in sorted(points)]


def soundness(text: str) -> Claimed | None:
    """The soundness recorded with a proof; None if it cannot be read."""
    value = json_object(text)
    sources = value.get("centibits")
    if not isinstance(sources, dict) or not all(type(bits) is int and abs(bits) < 1 << 20 for bits in sources.values()):
        return None
    bits, total = whole(value.get("bits"), 0, 1 << 20, -1), whole(value.get("total_bits"), 0, 1 << 20, -1)
    return None if min(bits, total) < 0 else Claimed(bits, total, dict(sorted(sources.items())))


def named_commitments(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(role, name, id) of each commitment that a statement names."""
    found = content.get("commitments")
    rows = found if isinstance(found, list) else []
    return [
        (row[0], row[1], row[2]) for row in rows if isinstance(row, list) and len(row) == 3 and all(isinstance(item, str) for item in row)
    ]


def writes(kind: str, role: str) -> bool:
    """Whether a task of this kind writes the commitment that it names in this role, or reads it."""
    return role in ("x_out", "dx_out", "state_out", "delivered", "gradient", "norm", "loss") or (kind, role) in (
        ("update", "adapter"), ("clip", "clip"), ("rotate", "new"))


def task_name(kind: str, window: int, layer: int, number: int = 0) -> str:
    """How a task is called: range(2), embed(0), layer(0, 1), layer(0, 1) part 2."""
    if window < 0:
        return f"{kind}({number})"
    place = f"{kind}({window})" if layer < 0 else f"{kind}({window}, {layer})"
    return f"{place} part {number}" if number and kind != "rotate" else place


OFF_AT_ZERO = ("warm-up", "momentum", "weight decay", "clipped at")


def headline(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A run in a few lines, by topic; what the manifest does not say, or switches off, is left out."""
    topics: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...] = (
        ("Model", (("layers", ("model", "layers")), ("hidden", ("model", "hidden")), ("vocabulary", ("model", "vocab")))),
        ("Adapter", (("r", ("lora", "r")), ("alpha", ("lora", "lora_alpha")), ("on", ("lora", "target_modules")))),
        ("Optimizer", (
            ("", ("optimizer", "kind")), ("learning rate", ("optimizer", "learning_rate")), ("schedule", ("optimizer", "schedule")),
            ("warm-up", ("optimizer", "warmup_steps")), ("momentum", ("optimizer", "momentum")),
            ("weight decay", ("optimizer", "weight_decay")), ("clipped at", ("optimizer", "max_grad_norm")),
        )),
        ("Training", (
            ("steps", ("steps",)), ("per window", ("window_steps",)), ("batch", ("batch_size",)),
            ("accumulated", ("gradient_accumulation",)), ("length", ("sequence_length",)),
            ("seed", ("seed",)),
        )),
        ("Base model", (("", ("base_visibility",)),)),
    )
    lines = []
    for topic, items in topics:
        found = [
            f"{label} {plain(value)}".strip() for label, keys in items
            if (value := part(manifest, *keys)) is not None and (label not in OFF_AT_ZERO or value not in (0, "0"))
        ]
        lines.append((topic, ", ".join(found)))
    return [(topic, text) for topic, text in lines if text]


def public_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What whoever reads a manifest knows, by topic."""
    topics = (
        ("model", ("model",)), ("adapter", ("lora",)), ("optimizer", ("optimizer",)),
        ("schedule", (
            "steps", "window_steps", "rotation_windows", "batch_size", "gradient_accumulation", "parts", "sequence_length", "seed")),
        ("data", ("examples", "dataset_owner", "loss_tokens", "tokenizer_digest")), ("base model", ("base_visibility",)),
        ("loss of each step", ("publish_loss",)), ("widths", ("widths", "weight_scales")), ("exponents", ("exponents",)),
        ("proof parameters", ("profile", "budgets")),
    )
    facts = []
    for topic, keys in topics:
        values = {key: manifest[key] for key in keys if key in manifest}
        text = plain(next(iter(values.values())) if len(keys) == 1 and values else values)
        if text:
            facts.append((topic, text))
    return facts


def plain(value: Any) -> str:
    """A value as text for people: nested keys side by side."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        more = f" … ({len(value)} in all)" if len(value) > 24 else ""
        return " ".join(plain(item) for item in value[:24]) + more
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
