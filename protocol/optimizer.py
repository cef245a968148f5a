"""The optimizer's public numbers: decimals as ordered, and the integers of every step that follow from them.

    lr_k     linear warm-up over warmup_steps, then constant, linear to 0, or half a cosine to 0 (k counts from 0, as in
             transformers' get_constant/linear/cosine_schedule_with_warmup)
    SGD      Δ = lr_k·b                                         rates:  n_k ≈ lr_k·2^e, |n_k| < 2^15
    AdamW    Δ = lr_k·√(1−β2^t)/(1−β1^t) · m/(√v + ε·√(1−β2^t)),  t = k + 1  (torch.optim.AdamW, rearranged)
             gains: lr_k·√(1−β2^t)/(1−β1^t)·2^e;  epsilons: ε·√(1−β2^t)·2^e;  decays: lr_k·weight_decay·2^e

All by integer arithmetic with GUARD bits, so every party has the same integers (arithmetic.md, opening section). Called by
protocol/relation/update.py and clip.py; prover/executor/float_model.py for the real values.
"""

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from math import isqrt
from typing import Any

from protocol.errors import VerificationError
from protocol.relation.tables import GUARD, cos_sin, half_turn, round_shift

DECIMAL = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{0,17}[1-9])?")
MOMENTUM_BITS = 16
RATE_BITS = 15
SCHEDULES = ("constant", "linear", "cosine")
_LIMITS = {  # inclusive; "0" switches momentum, weight_decay and max_grad_norm off
    "learning_rate": ("0.000000000001", "1024"), "momentum": ("0", "0.9999"), "beta1": ("0", "0.9999"),
    "beta2": ("0.5", "0.99999"), "epsilon": ("0.000000000000001", "1"), "weight_decay": ("0", "1"), "max_grad_norm": ("0", "1000000"),
}


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """kind "sgd" uses momentum (dampening 0), "adamw" uses beta1, beta2, epsilon, weight_decay; the others' are their defaults."""

    kind: str
    learning_rate: str
    momentum: str = "0"
    beta1: str = "0.9"
    beta2: str = "0.999"
    epsilon: str = "0.00000001"
    weight_decay: str = "0"
    max_grad_norm: str = "0"
    schedule: str = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _need(self.kind in ("sgd", "adamw"), "kind", "sgd or adamw", self.kind)
        _need(self.schedule in SCHEDULES, "schedule", f"one of {SCHEDULES}", self.schedule)
        _need(type(self.warmup_steps) is int and 0 <= self.warmup_steps < 1 << 20, "warmup_steps", "0 … 2^20 − 1", self.warmup_steps)
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            _need(type(value) is str and bool(DECIMAL.fullmatch(value)), name, "a canonical decimal", value)
            _need(Fraction(low) <= Fraction(value) <= Fraction(high), name, f"{low} … {high}", value)
        unused = ("beta1", "beta2", "epsilon", "weight_decay") if self.kind == "sgd" else ("momentum",)
        for field in fields(self):
            if field.name in unused:
                value = getattr(self, field.name)
                _need(value == field.default, field.name, f"{field.default} ({self.kind} has none)", value)

    @property
    def clips(self) -> bool:
        return self.max_grad_norm != "0"

    @property
    def momentum_integer(self) -> int:
        return round(Fraction(self.momentum) * (1 << MOMENTUM_BITS))

    def rate(self, step: int, steps: int) -> int:
        """2^GUARD · lr of one step of a run of `steps`."""
        peak = (Fraction(self.learning_rate).numerator << GUARD) // Fraction(self.learning_rate).denominator
        if step < self.warmup_steps:
            return peak * step // self.warmup_steps
        if self.schedule == "constant":
            return peak
        done, length = step - self.warmup_steps, max(steps - self.warmup_steps, 1)
        if self.schedule == "linear":
            return peak * (length - done) // length
        return peak * ((1 << GUARD) + cos_sin(half_turn() * done // length)[0]) >> GUARD + 1

    def rates(self, first: int, count: int, steps: int) -> tuple[list[int], int]:
        """SGD: integers n_k and e with lr_k ≈ n_k·2^−e for steps first … first + count − 1; e is the same for all steps."""
        e = _exponent(Fraction(self.learning_rate))
        return [round_shift(self.rate(k, steps), GUARD - e) for k in range(first, first + count)], e

    def decays(self, first: int, count: int, steps: int) -> tuple[list[int], int]:
        """AdamW: lr_k·weight_decay as `rates`."""
        decay = Fraction(self.weight_decay)
        e = _exponent(Fraction(self.learning_rate) * decay)
        scaled = [self.rate(k, steps) * decay.numerator // decay.denominator for k in range(first, first + count)]
        return [round_shift(x, GUARD - e) for x in scaled], e

    def one_minus_beta(self, name: str, bits: int) -> tuple[int, int]:
        """(c, e) with 1 − β ≈ c·2^−e and 2^(bits−1) ≤ c < 2^bits: the β that is proved is 1 − c·2^−e."""
        rest, e = 1 - Fraction(getattr(self, name)), bits - 1  # 0 < 1 − β ≤ 1, so e is no smaller
        while round(rest * (1 << e)) < 1 << bits - 1:
            e += 1
        return round(rest * (1 << e)), e

    def corrections(self, step: int) -> tuple[int, int]:
        """2^GUARD·(√(1 − β2^t), 1/(1 − β1^t)), t = step + 1."""
        one = 1 << GUARD
        power = [_power((Fraction(b).numerator << GUARD) // Fraction(b).denominator, step + 1) for b in (self.beta1, self.beta2)]
        return isqrt((one - power[1]) << GUARD), (one << GUARD) // (one - power[0])

    def gains(self, first: int, count: int, steps: int, scale: int) -> list[int]:
        """AdamW: round(lr_k·√(1−β2^t)/(1−β1^t)·2^scale)."""
        found = []
        for k in range(first, first + count):
            root, inverse = self.corrections(k)
            found.append(round_shift((self.rate(k, steps) * root >> GUARD) * inverse, 2 * GUARD - scale))
        return found

    def epsilons(self, first: int, count: int, scale: int) -> list[int]:
        """AdamW: max(1, round(ε·√(1−β2^t)·2^scale)): a divisor is never 0."""
        eps = Fraction(self.epsilon)
        roots = [self.corrections(k)[0] * eps.numerator // eps.denominator for k in range(first, first + count)]
        return [max(1, round_shift(x, GUARD - scale)) for x in roots]

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _need(condition: bool, name: str, expected: str, actual: object) -> None:
    if not condition:
        raise VerificationError("manifest", f"optimizer.{name}", expected, repr(actual)[:80])


def _exponent(value: Fraction) -> int:
    """The e with 2^(RATE_BITS−1) ≤ round(value·2^e) < 2^RATE_BITS."""
    e = RATE_BITS - 1
    while round(value * Fraction(2) ** e) >= 1 << RATE_BITS:
        e -= 1
    while round(value * Fraction(2) ** e) < 1 << RATE_BITS - 1:
        e += 1
    return e


def _power(base: int, n: int) -> int:
    """2^GUARD·(base·2^−GUARD)^n, rounded down at every multiplication."""
    result = 1 << GUARD
    while n:
        if n & 1:
            result = result * base >> GUARD
        base, n = base * base >> GUARD, n >> 1
    return result
