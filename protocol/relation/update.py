"""The optimizer: master weights, SGD with momentum or AdamW, compute copies (arithmetic.md, section 4).

    gn_s = rescale(grad_s·n_s),  n_s = round(2^k / N_s)          mean over the step's N_s loss tokens (∘γ behind a norm)
           then rescale(gn_s·φ_s) with the step's clip factor φ_s where max_grad_norm is set (protocol/relation/clip.py)
    SGD    b_s = rescale(μ·b_{s−1}) + gn_s,  Δ_s = rescale(lr_s·b_s)                     μ = 0: b_s = gn_s
    AdamW  m_s = rescale(m_{s−1}·(2^e1 − c1) + gn_s·c1, e1)                               1 − β1 = c1·2^−e1
           v_s = v_{s−1} + ⌈c2·(gn_s² − v_{s−1})·2^−e2⌉                                   1 − β2 = c2·2^−e2
           Δ_s = nearest integer of gain_s·m_s / (2^e·⌊√(2^8·v_s)⌋ + ε_s)                  gain, ε: protocol/optimizer.py
           Δ'_s = rescale(decay_s·w_s)                                                    only with weight decay
    w_{s+1} = w_s − Δ_s − Δ'_s

Masters have 24 fractional bits and 32 bits, compute copies 14 and 16; m has gn's exponent, v twice that and 48 bits. All
steps of a window are one tensor with axis s: what a recurrence needs is declared first and its rescale attached later, so
that it is a shift or a prefix sum along s. In the run's first window lora_A is public (protocol/streams.py), all else zero.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from protocol.optimizer import MOMENTUM_BITS
from protocol.relation.context import Context, Fixed
from protocol.relation.graph import IntArray, Tensor, Term
from protocol.relation.lora import IN_AXES, OUT_AXES
from protocol.relation.rounding import commit_copy, declare, divide, isqrt, rescale, signed_check
from protocol.streams import MASTER_BITS, initial_lora_a

COMPUTE_BITS = 14
MATRICES = ("lora_A", "lora_B")
NORMALISER_BITS = 12
M_BITS, V_BITS, BETA1_BITS, BETA2_BITS, CHANGE_BITS = 25, 48, 16, 12, 61
ROOT_BITS = 4  # extra fractional bits of √v
GAIN_BITS = 16


@dataclass(frozen=True)
class Parameter:
    """One matrix's master at the window's start, its declared updates [s, …], and its values at each step."""

    name: str
    axes: str
    start: Tensor
    updates: tuple[Tensor, ...]
    steps: Tensor


def axes_of(module: str, matrix: str) -> str:
    return "r" + IN_AXES[module] if matrix == "lora_A" else OUT_AXES[module] + "r"


def state_names(name: str, kind: str, momentum: int) -> tuple[str, ...]:
    """The optimizer's tensors of one matrix beside its master."""
    if kind == "adamw":
        return f"{name}.m", f"{name}.v"
    return (f"{name}.momentum",) if momentum else ()


def _start(c: Context, name: str, axes: str, shape: tuple[int, ...], lo: int, hi: int, initial: bool) -> Tensor:
    """A state tensor at the window's start: zero in the first window."""
    if initial:
        return c.g.linear(f"initial/{name}", axes, sizes=dict(zip(axes, shape, strict=True)))
    return c.g.input("state_in", name, axes, shape, lo, hi)


def _signed(bits: int) -> tuple[int, int]:
    return -(1 << bits - 1), (1 << bits - 1) - 1


def _sums(c: Context, name: str, change: Tensor) -> Tensor:
    """[s, …]: Σ of `change` over the steps before s."""
    rows, cols = np.tril_indices(c.steps.count, -1)
    return c.g.axis_map(name, change, "s", c.steps.count, rows, cols)


def _previous(c: Context, name: str, value: Tensor, start: Tensor) -> tuple[Tensor, Term]:
    """Two summands that together are the value one step earlier."""
    count = c.steps.count
    shifted = c.g.axis_map(name, value, "s", count, np.arange(1, count), np.arange(count - 1))
    return shifted, Term(1, start, start.axes, (("s", np.eye(1, count, dtype=np.int64)[0]),))


def _along(value: Tensor, numbers: list[int]) -> Term:
    """value·numbers[s]."""
    vector: IntArray = np.array(numbers, dtype=np.int64)
    return Term(1, value, value.axes, (("s", vector),))


def _keep_last(c: Context, name: str, value: Tensor, bits: int, signed: bool = True) -> None:
    """The last step's value into the output state under `name`."""
    last = c.g.axis_map(f"{name}.last", value, "s", 1, [0], [c.steps.count - 1])
    end = c.g.linear(f"{name}.end", value.axes[1:], (1, last))
    rescale(c.g, end, 0, bits, name, "state_out", signed)


def master(c: Context, layer: int, module: str, matrix: str, shape: tuple[int, ...], initial: bool) -> Parameter:
    """The master of one matrix."""
    g, name, axes = c.g, f"{module}.{matrix}", axes_of(module, matrix)
    if initial and matrix == "lora_A":
        start = g.public(f"initial/{name}", axes, initial_lora_a(c.m.seed, layer, module, shape))
    else:
        start = _start(c, name, axes, shape, *_signed(c.m.widths["master"]), initial)
    updates = tuple(declare(g, f"{name}.{x}", "s" + axes, (c.steps.count, *shape), c.m.widths["delta"]) for x in changes(c))
    before = [_sums(c, f"{x.name}.moved", x) for x in updates]
    return Parameter(name, axes, start, updates, g.linear(f"{name}.steps", "s" + axes, (1, start), *[(-1, x) for x in before]))


def changes(c: Context) -> tuple[str, ...]:
    """What a step subtracts from a master."""
    return ("delta", "decay") if c.m.optimizer.weight_decay != "0" else ("delta",)


def compute_copy(c: Context, name: str, steps: Tensor, gamma: Fixed | None) -> Fixed:
    """The compute copies [s, …] of a master; `gamma` if the copy is to be A∘γ."""
    exact, to = Fixed(steps, MASTER_BITS), COMPUTE_BITS
    if gamma is not None:
        exact = c.product(f"{name}.gamma", f"{steps.axes},d->{steps.axes}", exact, gamma)
        to = c.exponent(f"{name}.copy")
    return c.rounded(f"{name}.copy", steps.axes, [exact], "compute", to)


def mean_gradient(c: Context, p: Parameter, exact: Fixed, gamma: Fixed | None) -> Fixed:
    """gn before clipping: the mean gradient, with γ where the compute copy had it."""
    gradient = c.rounded(f"{p.name}.grad", "s" + p.axes, [exact], "lora_gradient")
    k = NORMALISER_BITS + max(c.m.loss_tokens).bit_length()
    inverse = [((1 << k + 1) // n + 1) // 2 for n in c.m.loss_tokens[c.steps.first : c.steps.stop]]
    if gamma is not None:
        gradient = c.product(f"{p.name}.grad_gamma", f"s{p.axes},d->s{p.axes}", gradient, gamma)
    mean = Fixed(c.g.linear(f"{p.name}.grad_n", "s" + p.axes, _along(gradient.t, inverse)), gradient.f + k)
    squared = c.m.optimizer.clips or c.m.optimizer.kind == "adamw"
    return c.rounded(f"{p.name}.mean", "s" + p.axes, [mean], "moment" if squared else "momentum")


def _sgd(c: Context, p: Parameter, gn: Fixed, initial: bool) -> None:
    g, optimizer, width = c.g, c.m.optimizer, c.m.widths["momentum"]
    b = gn.t
    for name in state_names(p.name, "sgd", optimizer.momentum_integer):
        start = _start(c, name, p.axes, p.start.shape, *_signed(width), initial)
        decayed = declare(g, f"{p.name}.decayed", b.axes, b.shape, width)
        b = g.linear(f"{p.name}.buffer", b.axes, (1, decayed), (1, gn.t))
        before = g.linear(f"{p.name}.before", b.axes, *_as_terms(_previous(c, f"{p.name}.shifted", b, start)))
        scaled = g.linear(f"{p.name}.mu_b", b.axes, (optimizer.momentum_integer, before))
        rescale(g, scaled, MOMENTUM_BITS, width, decayed.name, given=decayed)
        _keep_last(c, name, b, width)
    numbers, e = optimizer.rates(c.steps.first, c.steps.count, c.m.steps)
    delta = p.updates[0]
    rescale(g, g.linear(f"{p.name}.lr_b", b.axes, _along(b, numbers)), e + gn.f - MASTER_BITS, c.m.widths["delta"], delta.name, given=delta)


def _as_terms(pair: tuple[Tensor, Term]) -> tuple[tuple[int, Tensor], Term]:
    return (1, pair[0]), pair[1]


def _adamw(c: Context, p: Parameter, gn: Fixed, initial: bool) -> None:
    g, optimizer, axes, shape = c.g, c.m.optimizer, gn.t.axes, gn.t.shape
    m_name, v_name = state_names(p.name, "adamw", 0)
    m_start = _start(c, m_name, p.axes, p.start.shape, *_signed(M_BITS), initial)
    v_start = _start(c, v_name, p.axes, p.start.shape, 0, (1 << V_BITS) - 1, initial)

    c1, e1 = optimizer.one_minus_beta("beta1", BETA1_BITS)
    m = declare(g, f"{p.name}.first", axes, shape, M_BITS)
    before = g.linear(f"{p.name}.first_before", axes, *_as_terms(_previous(c, f"{p.name}.first_shifted", m, m_start)))
    rescale(g, g.linear(f"{p.name}.first_exact", axes, ((1 << e1) - c1, before), (c1, gn.t)), e1, M_BITS, m.name, given=m)
    _keep_last(c, m_name, m, M_BITS)

    c2, e2 = optimizer.one_minus_beta("beta2", BETA2_BITS)
    # |c2·(gn² − v)| stays below 2^61.6 with 12-bit c2 and 48-bit v; the change's width keeps 2^e2·change below 2^60
    change = declare(g, f"{p.name}.second_change", axes, shape, CHANGE_BITS - e2)
    v = declare(g, f"{p.name}.second", axes, shape, V_BITS, signed=False)
    old = g.linear(f"{p.name}.second_before", axes, *_as_terms(_previous(c, f"{p.name}.second_shifted", v, v_start)))
    square = g.product(f"{p.name}.mean_square", f"{axes},{axes}->{axes}", gn.t, gn.t)
    # rounded up: v is 0 only where every gradient was, else an update of a small one would be divided by ε alone
    exact = g.linear(f"{p.name}.second_exact", axes, (c2, square), (-c2, old), const=(1 << e2 - 1) - 1)
    rescale(g, exact, e2, CHANGE_BITS - e2, change.name, given=change)
    rescale(g, g.linear(f"{p.name}.second_sum", axes, (1, old), (1, change)), 0, V_BITS, v.name, signed=False, given=v)
    _keep_last(c, v_name, v, V_BITS, signed=False)

    root = isqrt(g, g.linear(f"{p.name}.second_scaled", axes, (1 << 2 * ROOT_BITS, v)), f"{p.name}.root")
    e = min(max(GAIN_BITS - int(Fraction(optimizer.learning_rate) * (1 << MASTER_BITS + ROOT_BITS)).bit_length(), 0), 8)
    gains = optimizer.gains(c.steps.first, c.steps.count, c.m.steps, MASTER_BITS + ROOT_BITS + e)
    epsilons = g.public(f"{p.name}.epsilon", "s", optimizer.epsilons(c.steps.first, c.steps.count, gn.f + ROOT_BITS + e))
    divisor = g.linear(f"{p.name}.root_epsilon", axes, (1 << e, root), (1, epsilons))
    delta = p.updates[0]
    divide(g, g.linear(f"{p.name}.gain_m", axes, _along(m, gains)), divisor, delta)
    signed_check(g, delta, c.m.widths["delta"], delta.name)
    if len(p.updates) > 1:
        numbers, shift = optimizer.decays(c.steps.first, c.steps.count, c.m.steps)
        decayed = g.linear(f"{p.name}.decay_w", axes, _along(p.steps, numbers))
        rescale(g, decayed, shift, c.m.widths["delta"], p.updates[1].name, given=p.updates[1])


def finish(c: Context, p: Parameter, gn: Fixed, initial: bool, final: bool) -> None:
    """The update from gn [s, …], clipped if it is; commits state_out and, in the run's last window, delivered."""
    g, count = c.g, c.steps.count
    (_adamw if c.m.optimizer.kind == "adamw" else _sgd)(c, p, gn, initial)
    moved = [g.axis_map(f"{x.name}.total", x, "s", 1, [0] * count, range(count)) for x in p.updates]
    end = g.linear(f"{p.name}.master", p.axes, (1, p.start), *[(-1, x) for x in moved])
    out = commit_copy(g, end, c.m.widths["master"], p.name, "state_out")
    if final:
        rescale(g, out, MASTER_BITS - COMPUTE_BITS, c.m.widths["compute"], p.name, "delivered")
