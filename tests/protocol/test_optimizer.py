"""The optimizer's public integers: transformers' schedules, torch's bias corrections, known answers, refused values."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from transformers import get_scheduler

from protocol.errors import VerificationError
from protocol.optimizer import MOMENTUM_BITS, RATE_BITS, Optimizer
from protocol.relation.tables import GUARD

ADAMW = Optimizer(kind="adamw", learning_rate="0.0003", weight_decay="0.01", schedule="cosine", warmup_steps=3)
RATES = ["0.05", "1", "0.000001", "1024", "0.99999999", "0.000030517578125", "0.000000000001"]


def sgd(**fields: object) -> Optimizer:
    return Optimizer(**{"kind": "sgd", "learning_rate": "0.05"} | fields)  # type: ignore[arg-type]


# schedules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_schedules_are_those_of_transformers(name: str, warmup: int) -> None:
    steps, o = 20, sgd(schedule=name, warmup_steps=warmup, learning_rate="0.3")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    theirs = get_scheduler("constant_with_warmup" if name == "constant" else name, optimizer, warmup, steps)
    for k in range(steps):
        assert abs(o.rate(k, steps) * 2.0**-GUARD - theirs.get_last_lr()[0]) < 1e-9 * 0.3, k
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_a_schedule_stays_between_zero_and_the_peak(name: str) -> None:
    o = sgd(schedule=name, warmup_steps=5)
    rates = [o.rate(k, 40) for k in range(40)]
    assert min(rates) == rates[0] == 0 and max(rates) == rates[5] == (5 << GUARD) // 100
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)


@pytest.mark.parametrize("rate", RATES)
def test_rates_have_fifteen_bits(rate: str) -> None:
    (n, *_), e = sgd(learning_rate=rate).rates(0, 2, 2)
    assert 1 << RATE_BITS - 1 <= n < 1 << RATE_BITS
    assert abs(Fraction(n) / Fraction(2) ** e / Fraction(rate) - 1) < Fraction(1, 1 << RATE_BITS)


def test_every_step_of_a_run_has_the_same_exponent() -> None:
    o = sgd(schedule="cosine", warmup_steps=4)
    whole, e = o.rates(0, 30, 30)
    parts = [o.rates(first, 6, 30) for first in range(0, 30, 6)]
    assert [n for numbers, _ in parts for n in numbers] == whole and {x for _, x in parts} == {e}
    assert whole[0] == 0 and max(whole) == whole[4] < 1 << RATE_BITS


def test_known_answers() -> None:
    """The right sides were computed in floating point from the formulas in torch's and transformers' documentation."""
    assert sgd(schedule="linear", warmup_steps=2).rates(0, 6, 6) == ([0, 13107, 26214, 19661, 13107, 6554], 19)
    assert sgd(schedule="cosine").rates(0, 4, 4) == ([26214, 22375, 13107, 3839], 19)
    assert sgd(momentum="0.9").momentum_integer == 58982
    assert ADAMW.one_minus_beta("beta1", 16) == (52429, 19) and ADAMW.one_minus_beta("beta2", 12) == (2097, 21)
    assert ADAMW.gains(0, 6, 10, 40) == [0, 25873348, 44422600, 60616821, 54081943, 44208845]
    assert ADAMW.decays(0, 6, 10) == ([0, 8590, 17180, 25770, 24494, 20919], 33)
    assert replace(ADAMW, weight_decay="0.03").decays(0, 4, 10) == ([0, 6442, 12885, 19327], 31)
    assert ADAMW.epsilons(0, 4, 40) == [348, 492, 602, 695]
    assert replace(ADAMW, epsilon="0.00000003").epsilons(0, 2, 40) == [1043, 1475]
    near_powers = {rate: sgd(learning_rate=rate).rates(0, 1, 1) for rate in ("0.99997", "1.99995", "3.9999")}
    assert near_powers == {"0.99997": ([16384], 14), "1.99995": ([32767], 14), "3.9999": ([32767], 13)}


def test_one_minus_beta_takes_the_smaller_exponent_where_two_would_do() -> None:
    """1 − 0.00001 = 0.99999: 32768·2^−15 and 65535·2^−16 are its nearest multiples, both of sixteen bits."""
    assert replace(ADAMW, beta1="0.00001").one_minus_beta("beta1", 16) == (32768, 15)
    assert replace(ADAMW, beta1="0").one_minus_beta("beta1", 16) == (32768, 15)
    assert replace(ADAMW, beta1="0.5").one_minus_beta("beta1", 16) == (32768, 16)
    assert replace(ADAMW, beta1="0.50000458").one_minus_beta("beta1", 16) == (32768, 16)  # 32767.7 · 2^−16, or 65535.4 · 2^−17


# AdamW ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beta1", "beta2"), [("0.9", "0.999"), ("0.9", "0.95"), ("0.9", "0.98"), ("0", "0.5"), ("0.9999", "0.99999")])
def test_bias_corrections(beta1: str, beta2: str) -> None:
    o = replace(ADAMW, beta1=beta1, beta2=beta2)
    for k in (0, 1, 9, 999, 100000):
        root, inverse = (x * 2.0**-GUARD for x in o.corrections(k))
        assert abs(root / (1 - float(beta2) ** (k + 1)) ** 0.5 - 1) < 1e-9
        assert abs(inverse * (1 - float(beta1) ** (k + 1)) - 1) < 1e-9


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("beta", ["0.9", "0.999", "0.95", "0.98", "0.5", "0.99999", "0.9999"])
def test_one_minus_beta_has_its_bits(beta: str, bits: int) -> None:
    for name in ("beta1", "beta2") if Fraction(beta) <= Fraction("0.9999") else ("beta2",):
        c, e = replace(ADAMW, **{name: beta}).one_minus_beta(name, bits)
        assert 1 << bits - 1 <= c < 1 << bits
        assert abs(Fraction(c, 1 << e) / (1 - Fraction(beta)) - 1) <= Fraction(1, 1 << bits)


@pytest.mark.parametrize("epsilon", ["1", "0.00000001", "0.000000000000001"])
def test_epsilon_is_never_zero(epsilon: str) -> None:
    o = replace(ADAMW, epsilon=epsilon)
    for scale in (-20, 0, 40):
        for k, n in enumerate(o.epsilons(0, 3, scale)):
            exact = float(epsilon) * (1 - 0.999 ** (k + 1)) ** 0.5 * 2.0**scale
            assert n >= 1 and (abs(n - exact) <= 0.5 + 1e-6 or n == 1 > exact)


def test_gains_are_the_rate_times_the_corrections() -> None:
    for k, n in enumerate(ADAMW.gains(0, 10, 10, 50)):
        exact = ADAMW.rate(k, 10) * 2.0**-GUARD * (1 - 0.999 ** (k + 1)) ** 0.5 / (1 - 0.9 ** (k + 1)) * 2.0**50
        assert abs(n - exact) <= 0.5 + 1e-9 * exact


# refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "value"), [
    ("lion", "kind", "lion"), ("sgd", "learning_rate", "0"), ("sgd", "learning_rate", "1025"), ("sgd", "learning_rate", "5e-1"),
    ("sgd", "learning_rate", "0.50"), ("sgd", "learning_rate", "01"), ("sgd", "learning_rate", 0.5), ("sgd", "momentum", "1"),
    ("sgd", "beta1", "0.8"), ("sgd", "beta2", "0.99"), ("sgd", "epsilon", "1"), ("sgd", "weight_decay", "0.01"),
    ("adamw", "momentum", "0.9"), ("adamw", "beta1", "1"), ("adamw", "beta2", "0.4"), ("adamw", "beta2", "1"), ("adamw", "epsilon", "0"),
    ("adamw", "weight_decay", "1.1"), ("adamw", "weight_decay", "-0.1"), ("adamw", "max_grad_norm", "1000001"),
    ("adamw", "schedule", "polynomial"), ("adamw", "warmup_steps", -1), ("adamw", "warmup_steps", True), ("adamw", "warmup_steps", 1 << 20),
])
def test_other_values_are_refused_by_name(kind: str, name: str, value: object) -> None:
    with pytest.raises(VerificationError) as caught:
        Optimizer(**{"kind": kind, "learning_rate": "0.05"} | {name: value})  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.where) == ("manifest", f"optimizer.{name}")


def test_momentum_integer() -> None:
    assert [sgd(momentum=x).momentum_integer for x in ("0", "0.5", "0.9999")] == [0, 1 << MOMENTUM_BITS - 1, 65529]
