"""The run's manifest: everything public that determines what must be proved.

Model configuration, adapter, optimizer, data order, widths, calibrated exponents, proof parameters and the commitments
known at the start. Strict canonical JSON in and out: a missing or unknown key or a wrong type is
`VerificationError("manifest", key, …)`. Its digest opens every transcript.

    step k trains on the next `sequences` = batch_size·gradient_accumulation indices of its epoch's permutation (an epoch's
    incomplete step is dropped); accumulating gradients of sums and rounding once is the same as one larger batch, and so is
    proving a step's sequences in `parts` tasks: part p has the p-th of as many equal runs of them (protocol/relation/parts.py)
"""

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from math import isqrt
from typing import Any, get_origin

import numpy as np

from protocol.encoding import canonical_json, parse_canonical, tagged_digest
from protocol.errors import VerificationError
from protocol.model_config import PROJECTIONS, ModelConfig
from protocol.optimizer import Optimizer
from protocol.relation.graph import IntArray
from protocol.streams import CounterStream

VERSION = 4
WIDTHS = {
    "weight": 12, "bias": 16, "gamma": 16, "embedding": 16, "head": 12, "activation": 16, "residual": 24, "gradient": 16,
    "row": 24, "du": 24, "lora_gradient": 26, "momentum": 32, "moment": 25, "master": 32, "delta": 24, "compute": 16,
    "probability": 16, "vocabulary_probability": 24,
}
CHOICES = {"weight": (12, 16), "head": (12, 16), "probability": (16, 20)}  # every other width is fixed
SCALE_BITS = 14
KEPT_ORDERS = 1 << 24  # indices: a hostile run can have thousands of epochs of millions of examples
RUN_ID_DIGITS = 32  # nobody finds two manifests with one beginning of 128 bits


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
    """The adapter's term is weighted lora_alpha / r, or lora_alpha / √r with use_rslora (as in PEFT)."""

    r: int
    lora_alpha: int
    target_modules: tuple[str, ...]
    use_rslora: bool = False

    def __post_init__(self) -> None:
        _need(1 <= self.r <= 1 << 12, "lora.r", "1 … 4096", self.r)
        _need(1 <= self.lora_alpha <= 1 << 16, "lora.lora_alpha", "1 … 65536", self.lora_alpha)
        known = tuple(m for m in PROJECTIONS if m in self.target_modules)
        _need(known == self.target_modules != (), "lora.target_modules", f"some of {PROJECTIONS} in this order",
              self.target_modules)

    @property
    def scale(self) -> tuple[int, int]:
        """(n, k) with the weight ≈ n·2^−k, n odd: exact where it can be, else the nearest with SCALE_BITS bits."""
        square = Fraction(self.lora_alpha**2, self.r if self.use_rslora else self.r**2)
        root = Fraction(isqrt(square.numerator), isqrt(square.denominator))
        if root**2 != square or root.denominator & (root.denominator - 1):
            k = 0
            while square * 4**k < 4 ** (SCALE_BITS - 1):
                k += 1
            root = Fraction((isqrt(int(square * 4 ** (k + 1))) + 1) // 2, 1 << k)
        k = root.denominator.bit_length() - 1
        trailing = (root.numerator & -root.numerator).bit_length() - 1
        return root.numerator >> trailing, k - trailing


@dataclass(frozen=True)
class RunManifest:
    """One run. `exponents` maps a tensor's key to f (real value = integer · 2^−f); `budgets` gives openings; `weight_scales`
    says whether base matrices have one scale per tensor or one per output row; `dataset_owner` is who committed the dataset
    before the run ("" is the provider); private commitments known at the start are copied under fresh blinding every
    `rotation_windows` windows (0: never), so that no budget of openings limits a run's length."""

    version: int
    name: str
    model: ModelConfig
    lora: Lora
    optimizer: Optimizer
    batch_size: int
    gradient_accumulation: int
    parts: int
    sequence_length: int
    steps: int
    window_steps: int
    rotation_windows: int
    seed: int
    examples: int
    loss_tokens: tuple[int, ...]
    publish_loss: bool
    base_visibility: str
    weight_scales: str
    dataset_owner: str
    tokenizer_digest: str
    widths: dict[str, int]
    exponents: dict[str, int]
    profile: str
    commitments: dict[str, str]
    budgets: dict[str, int]

    def __post_init__(self) -> None:
        _need(self.version == VERSION, "version", str(VERSION), self.version)
        for name, top in (("batch_size", 1 << 12), ("gradient_accumulation", 1 << 12), ("parts", 1 << 12), ("sequence_length", 1 << 12),
                          ("steps", 1 << 20), ("window_steps", 1 << 9), ("examples", 1 << 22)):
            value = getattr(self, name)
            _need(type(value) is int and 1 <= value <= top, name, f"1 … {top}", value)
        _need(type(self.rotation_windows) is int and 0 <= self.rotation_windows <= 1 << 20, "rotation_windows", "0 … 2^20",
              self.rotation_windows)
        _need(type(self.seed) is int and 0 <= self.seed < 1 << 63, "seed", "0 … 2^63 − 1", self.seed)
        _need(self.sequences % self.parts == 0, "parts", f"a divisor of a step's {self.sequences} sequences", self.parts)
        _need(self.sequences <= self.examples, "batch_size", f"with accumulation at most examples = {self.examples}", self.sequences)
        _need(self.optimizer.warmup_steps <= self.steps, "optimizer.warmup_steps", f"at most steps = {self.steps}",
              self.optimizer.warmup_steps)
        tokens = self.sequences * self.sequence_length
        # what a verifier has to build from a small manifest; far above what can be proved
        _need(min(self.window_steps, self.steps) * tokens <= 1 << 24, "window_steps", "at most 2^24 tokens in a window", self.window_steps)
        _need(-(-self.steps // self.window_steps) * self.model.layers * self.parts <= 1 << 20, "steps",
              "at most 2^20 windows times layers times parts", self.steps)
        _need(len(self.loss_tokens) == self.steps and all(1 <= n <= tokens for n in self.loss_tokens), "loss_tokens",
              f"{self.steps} integers in 1 … {tokens}", self.loss_tokens)
        _need(self.base_visibility in ("private", "public"), "base_visibility", "private or public",
              self.base_visibility)
        _need(self.weight_scales in ("tensor", "row"), "weight_scales", "tensor or row", self.weight_scales)
        _need(len(self.dataset_owner) <= 200, "dataset_owner", "at most 200 characters", self.dataset_owner)
        _need(self.widths.keys() == WIDTHS.keys(), "widths", f"keys {sorted(WIDTHS)}", sorted(self.widths))
        for name, bits in self.widths.items():
            _need(bits in CHOICES.get(name, (WIDTHS[name],)), f"widths.{name}", str(CHOICES.get(name, (WIDTHS[name],))), bits)
        _need(all(abs(n) <= 96 for n in self.exponents.values()), "exponents", "−96 … 96", self.exponents)

    @property
    def sequences(self) -> int:
        """Sequences of one optimizer step."""
        return self.batch_size * self.gradient_accumulation

    @property
    def part_sequences(self) -> int:
        """Sequences of a step in one task: the length of axis b."""
        return self.sequences // self.parts

    @property
    def part_numbers(self) -> tuple[int, ...]:
        """1 … parts; only 0 where one task has all sequences of a step."""
        return tuple(range(1, self.parts + 1)) if self.parts > 1 else (0,)

    # data order ----------------------------------------------------------------------------------

    def windows(self) -> list[StepRange]:
        return self._windows

    @cached_property
    def _windows(self) -> list[StepRange]:
        n = self.window_steps
        return [StepRange(k, min(n, self.steps - k)) for k in range(0, self.steps, n)]

    @cached_property
    def _orders(self) -> dict[int, IntArray]:
        return {}

    def batch(self, step: int) -> IntArray:
        """The example indices of one step."""
        epoch, place = divmod(step, self.examples // self.sequences)
        if epoch not in self._orders:
            if len(self._orders) * self.examples >= KEPT_ORDERS:
                self._orders.clear()
            self._orders[epoch] = CounterStream(f"order/{self.seed}/{epoch}").permutation(self.examples)
        return self._orders[epoch][place * self.sequences : (place + 1) * self.sequences]

    def batches(self, steps: StepRange, part: int) -> IntArray:
        """Example indices [s, b] of one part of a window, or of all of it (0)."""
        kept = slice((part - 1) * self.part_sequences, part * self.part_sequences) if part else slice(None)
        return np.stack([self.batch(k)[kept] for k in range(steps.first, steps.stop)])

    # encoding ------------------------------------------------------------------------------------

    def to_json(self) -> bytes:
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        lora = {f.name: getattr(self.lora, f.name) for f in fields(Lora)} | {"target_modules": list(self.lora.target_modules)}
        value |= {"model": self.model.to_manifest(), "lora": lora, "optimizer": self.optimizer.to_json(),
                  "loss_tokens": list(self.loss_tokens)}
        return canonical_json(value)

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return tagged_digest("manifest", self.to_json()).hex()

    @property
    def run_id(self) -> str:
        """The run's name, which belongs to this manifest alone."""
        return self.digest()[:RUN_ID_DIGITS]

    @classmethod
    def from_json(cls, data: bytes) -> "RunManifest":
        """The manifest encoded in `data`, complete (commitments and budgets of every committed object)."""
        value = _object(parse_canonical(data, "manifest"), "", {f.name: _json_type(f.type) for f in fields(cls)})
        lora = _object(value["lora"], "lora.", {f.name: _json_type(f.type) for f in fields(Lora)})
        _need(all(type(m) is str for m in lora["target_modules"]), "lora.target_modules", "strings", lora)
        optimizer = _object(value["optimizer"], "optimizer.", {f.name: _json_type(f.type) for f in fields(Optimizer)})
        for name, kind in (("widths", int), ("exponents", int), ("budgets", int), ("commitments", str)):
            _need(all(type(v) is kind for v in value[name].values()), name, kind.__name__, value[name])
        _need(all(type(n) is int for n in value["loss_tokens"]), "loss_tokens", "integers", value["loss_tokens"])
        model = ModelConfig.from_manifest(value["model"])
        expected = base_commitments(model)
        _need(sorted(value["commitments"]) == expected, "commitments", str(expected), sorted(value["commitments"]))
        for name, text in value["commitments"].items():
            _need(bool(re.fullmatch("[0-9a-f]{64}", text)), f"commitments.{name}", "64 hexadecimal digits", text)
        value |= {"model": model, "optimizer": Optimizer(**optimizer), "loss_tokens": tuple(value["loss_tokens"]),
                  "lora": Lora(**lora | {"target_modules": tuple(lora["target_modules"])})}
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
