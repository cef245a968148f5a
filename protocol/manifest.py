"""The run's manifest: everything public that determines what must be proved.

Model configuration, adapter, optimizer (exact decimals with the integers derived from them), data order, widths,
calibrated exponents, proof parameters and the commitments known at the start. Strict canonical JSON in and out: a
missing or unknown key or a wrong type is `VerificationError("manifest", key, …)`. Its digest opens every transcript.

    learning rate ≈ lr_integer · 2^−lr_exponent with a 15-bit integer;  momentum ≈ momentum_integer · 2^−16
    step k trains on the next batch_size indices of its epoch's permutation (an epoch's incomplete batch is dropped)
"""

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, get_origin

import numpy as np

from protocol.encoding import canonical_json, parse_canonical, tagged_digest
from protocol.errors import VerificationError
from protocol.model_config import PROJECTIONS, ModelConfig
from protocol.relation.graph import IntArray
from protocol.streams import CounterStream

VERSION = 1
MOMENTUM_BITS = 16
WIDTHS = {
    "weight": 12, "gamma": 16, "embedding": 16, "head": 12, "activation": 16, "residual": 24, "gradient": 16,
    "row": 24, "du": 24, "lora_gradient": 26, "momentum": 32, "master": 32, "delta": 24, "compute": 16,
    "probability": 16, "vocabulary_probability": 24,
}
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{0,17}[1-9])?")


def _fail(where: str, expected: str, actual: object) -> VerificationError:
    return VerificationError("manifest", where, expected, repr(actual)[:80])


def _need(condition: bool, where: str, expected: str, actual: object) -> None:
    if not condition:
        raise _fail(where, expected, actual)


@dataclass(frozen=True)
class StepRange:
    """Consecutive training steps first … first + count − 1."""

    first: int
    count: int

    @property
    def stop(self) -> int:
        return self.first + self.count


@dataclass(frozen=True)
class Lora:
    r: int
    lora_alpha: int
    target_modules: tuple[str, ...]

    def __post_init__(self) -> None:
        _need(1 <= self.r <= 1 << 12, "lora.r", "1 … 4096", self.r)
        _need(1 <= self.lora_alpha <= 1 << 16, "lora.lora_alpha", "1 … 65536", self.lora_alpha)
        known = tuple(m for m in PROJECTIONS if m in self.target_modules)
        _need(known == self.target_modules != (), "lora.target_modules", f"some of {PROJECTIONS} in this order",
              self.target_modules)

    @property
    def scale(self) -> tuple[int, int]:
        """(n, k) with lora_alpha / r ≈ n·2^−k, exact when r / gcd is a power of two, else to 12 bits; n is odd."""
        exact = Fraction(self.lora_alpha, self.r)
        if exact.denominator & (exact.denominator - 1):
            exact = Fraction(round(exact * 4096) or 1, 4096)
        k = exact.denominator.bit_length() - 1
        trailing = (exact.numerator & -exact.numerator).bit_length() - 1
        return exact.numerator >> trailing, k - trailing


@dataclass(frozen=True)
class Optimizer:
    """Plain SGD is momentum "0". The integers are functions of the decimals and are compared when read."""

    kind: str
    momentum: str
    learning_rate: str

    def __post_init__(self) -> None:
        _need(self.kind == "sgd", "optimizer.kind", "sgd (no other optimizer is supported yet)", self.kind)
        for name in ("momentum", "learning_rate"):
            value = getattr(self, name)
            _need(bool(_DECIMAL.fullmatch(value)), f"optimizer.{name}", "a canonical decimal", value)
        _need(Fraction(self.momentum) < 1, "optimizer.momentum", "below 1", self.momentum)
        _need(0 < Fraction(self.learning_rate) <= 1024, "optimizer.learning_rate", "above 0, at most 1024",
              self.learning_rate)

    @property
    def lr_exponent(self) -> int:
        lr, exponent = Fraction(self.learning_rate), 14
        while round(lr * Fraction(2) ** exponent) >= 1 << 15:
            exponent -= 1
        while round(lr * Fraction(2) ** exponent) < 1 << 14:
            exponent += 1
        return exponent

    @property
    def lr_integer(self) -> int:
        return round(Fraction(self.learning_rate) * Fraction(2) ** self.lr_exponent)

    @property
    def momentum_integer(self) -> int:
        return round(Fraction(self.momentum) * (1 << MOMENTUM_BITS))

    def to_json(self) -> dict[str, Any]:
        derived = {k: getattr(self, k) for k in ("lr_exponent", "lr_integer", "momentum_integer")}
        return {"kind": self.kind, "momentum": self.momentum, "learning_rate": self.learning_rate} | derived


@dataclass(frozen=True)
class RunManifest:
    """One run. `exponents` maps a tensor's key to f (real value = integer · 2^−f); `budgets` gives openings."""

    version: int
    name: str
    model: ModelConfig
    lora: Lora
    optimizer: Optimizer
    batch_size: int
    sequence_length: int
    steps: int
    window_steps: int
    seed: int
    examples: int
    loss_tokens: tuple[int, ...]
    publish_loss: bool
    base_visibility: str
    tokenizer_digest: str
    widths: dict[str, int]
    exponents: dict[str, int]
    profile: str
    commitments: dict[str, str]
    budgets: dict[str, int]

    def __post_init__(self) -> None:
        _need(self.version == VERSION, "version", str(VERSION), self.version)
        for name, top in (("batch_size", 1 << 12), ("sequence_length", 1 << 12), ("steps", 1 << 20),
                          ("window_steps", 1 << 12), ("examples", 1 << 22)):
            value = getattr(self, name)
            _need(type(value) is int and 1 <= value <= top, name, f"1 … {top}", value)
        _need(type(self.seed) is int and 0 <= self.seed < 1 << 63, "seed", "0 … 2^63 − 1", self.seed)
        _need(self.batch_size <= self.examples, "batch_size", f"at most examples = {self.examples}", self.batch_size)
        tokens = self.batch_size * self.sequence_length
        _need(len(self.loss_tokens) == self.steps and all(1 <= n <= tokens for n in self.loss_tokens), "loss_tokens",
              f"{self.steps} integers in 1 … {tokens}", self.loss_tokens)
        _need(self.base_visibility in ("private", "public"), "base_visibility", "private or public",
              self.base_visibility)
        _need(self.widths.keys() == WIDTHS.keys() and all(2 <= n <= 32 for n in self.widths.values()), "widths",
              f"2 … 32 for {sorted(WIDTHS)}", self.widths)
        _need(all(abs(n) <= 96 for n in self.exponents.values()), "exponents", "−96 … 96", self.exponents)

    # data order ----------------------------------------------------------------------------------

    def windows(self) -> list[StepRange]:
        n = self.window_steps
        return [StepRange(k, min(n, self.steps - k)) for k in range(0, self.steps, n)]

    @cached_property
    def _orders(self) -> dict[int, IntArray]:
        return {}

    def batch(self, step: int) -> IntArray:
        """The batch_size example indices of one step."""
        epoch, place = divmod(step, self.examples // self.batch_size)
        if epoch not in self._orders:
            self._orders[epoch] = CounterStream(f"order/{self.seed}/{epoch}").permutation(self.examples)
        return self._orders[epoch][place * self.batch_size : (place + 1) * self.batch_size]

    def batches(self, steps: StepRange) -> IntArray:
        """Example indices [s, b] of a window."""
        return np.stack([self.batch(k) for k in range(steps.first, steps.stop)])

    # encoding ------------------------------------------------------------------------------------

    def to_json(self) -> bytes:
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        lora = {"r": self.lora.r, "lora_alpha": self.lora.lora_alpha, "target_modules": list(self.lora.target_modules)}
        value |= {"model": self.model.to_manifest(), "lora": lora, "optimizer": self.optimizer.to_json(),
                  "loss_tokens": list(self.loss_tokens)}
        return canonical_json(value)

    def digest(self) -> str:
        return tagged_digest("manifest", self.to_json()).hex()

    @classmethod
    def from_json(cls, data: bytes) -> "RunManifest":
        """The manifest encoded in `data`, complete (commitments and budgets of every committed object)."""
        value = _object(parse_canonical(data, "manifest"), "", {f.name: _json_type(f.type) for f in fields(cls)})
        lora = _object(value["lora"], "lora.", {"r": int, "lora_alpha": int, "target_modules": list})
        _need(all(type(m) is str for m in lora["target_modules"]), "lora.target_modules", "strings", lora)
        kinds = {k: type(v) for k, v in Optimizer("sgd", "0", "1").to_json().items()}
        decimals = _object(value["optimizer"], "optimizer.", kinds)
        optimizer = Optimizer(decimals["kind"], decimals["momentum"], decimals["learning_rate"])
        _need(optimizer.to_json() == decimals, "optimizer", str(optimizer.to_json()), decimals)
        for name, kind in (("widths", int), ("exponents", int), ("budgets", int), ("commitments", str)):
            _need(all(type(v) is kind for v in value[name].values()), name, kind.__name__, value[name])
        _need(all(type(n) is int for n in value["loss_tokens"]), "loss_tokens", "integers", value["loss_tokens"])
        model = ModelConfig.from_manifest(value["model"])
        expected = base_commitments(model)
        _need(sorted(value["commitments"]) == expected, "commitments", str(expected), sorted(value["commitments"]))
        for name, text in value["commitments"].items():
            _need(bool(re.fullmatch("[0-9a-f]{64}", text)), f"commitments.{name}", "64 hexadecimal digits", text)
        value |= {"model": model, "optimizer": optimizer, "loss_tokens": tuple(value["loss_tokens"]),
                  "lora": Lora(lora["r"], lora["lora_alpha"], tuple(lora["target_modules"]))}
        return cls(**value)


def _json_type(annotation: Any) -> type:
    plain = get_origin(annotation) or annotation
    return list if plain is tuple else plain if plain in (int, str, bool) else dict


def _object(value: Any, where: str, kinds: dict[str, type]) -> dict[str, Any]:
    _need(isinstance(value, dict), where or "manifest", "an object", value)
    for key in sorted(set(kinds) ^ set(value)):
        raise _fail(where + key, "a key" if key in kinds else "no such key", "missing" if key in kinds else "present")
    for key, kind in kinds.items():
        _need(type(value[key]) is kind, where + key, kind.__name__, value[key])
    return dict(value)


def base_commitments(model: ModelConfig) -> list[str]:
    """Names of the commitments that exist before the first step, sorted."""
    return sorted([f"base/{layer}" for layer in range(model.layers)] + ["embedding", "head", "dataset"])
