"""The optimizer: master weights, SGD with momentum, compute copies (arithmetic.md, section 4).

    gn_s = rescale(grad_s·n_s),  n_s = round(2^k / N_s)          mean over the step's N_s loss tokens (∘γ behind a norm)
    b_s  = rescale(μ·b_{s−1}) + gn_s                              plain SGD: b_s = gn_s
    w_{s+1} = w_s − Δ_s,  Δ_s = rescale(lr·b_s)

Masters have 24 fractional bits and 32 bits, compute copies 14 and 16. All steps of a window are one tensor with axis s:
Δ and m = rescale(μ·b) are declared first and their rescales attached later, so a recurrence is a shift along s
(w_s = w_in − Σ_{s'<s} Δ_{s'}). In the run's first window lora_A is public (protocol/streams.py), lora_B and b are zero.
"""

from dataclasses import dataclass

import numpy as np

from protocol.manifest import MOMENTUM_BITS
from protocol.relation.context import Context, Fixed
from protocol.relation.graph import Tensor, Term
from protocol.relation.lora import IN_AXES, OUT_AXES, Adapter
from protocol.relation.rounding import commit_copy, declare, rescale
from protocol.streams import MASTER_BITS, initial_lora_a

COMPUTE_BITS = 14
MATRICES = ("lora_A", "lora_B")
NORMALISER_BITS = 12


@dataclass(frozen=True)
class Parameter:
    """One matrix's master at the window's start, its declared updates [s, …], and its values at each step."""

    name: str
    axes: str
    start: Tensor
    delta: Tensor
    steps: Tensor


def axes_of(module: str, matrix: str) -> str:
    return "r" + IN_AXES[module] if matrix == "lora_A" else OUT_AXES[module] + "r"


def momentum_name(name: str) -> str:
    return f"{name}.momentum"


def _state_input(c: Context, name: str, axes: str, shape: tuple[int, ...], width: str) -> Tensor:
    half = 1 << c.m.widths[width] - 1
    return c.g.input("state_in", name, axes, shape, -half, half - 1)


def _start(c: Context, layer: int, module: str, matrix: str, shape: tuple[int, ...], initial: bool) -> Tensor:
    name, axes = f"{module}.{matrix}", axes_of(module, matrix)
    if not initial:
        return _state_input(c, name, axes, shape, "master")
    if matrix == "lora_A":
        return c.g.public(f"initial/{name}", axes, initial_lora_a(c.m.seed, layer, module, shape))
    return c.g.linear(f"initial/{name}", axes, sizes=dict(zip(axes, shape, strict=True)))


def begin(
    c: Context, layer: int, module: str, shapes: dict[str, tuple[int, ...]], gamma: Fixed | None, initial: bool
) -> tuple[dict[str, Parameter], Adapter]:
    """Masters of one module, and this window's compute copies; behind a norm that of lora_A is A∘γ."""
    g, count, parameters, copies = c.g, c.steps.count, {}, {}
    rows, cols = np.tril_indices(count, -1)
    for matrix in MATRICES:
        name, axes = f"{module}.{matrix}", axes_of(module, matrix)
        start = _start(c, layer, module, matrix, shapes[matrix], initial)
        delta = declare(g, f"{name}.delta", "s" + axes, (count, *start.shape), c.m.widths["delta"])
        before = g.axis_map(f"{name}.moved", delta, "s", count, rows, cols)
        steps = g.linear(f"{name}.steps", "s" + axes, (1, start), (-1, before))
        parameters[matrix] = Parameter(name, axes, start, delta, steps)
        exact, to = Fixed(steps, MASTER_BITS), COMPUTE_BITS
        if matrix == "lora_A" and gamma is not None:
            exact = c.product(f"{name}.gamma", f"s{axes},d->s{axes}", exact, gamma)
            to = c.exponent(f"{name}.copy")
        copies[matrix] = c.rounded(f"{name}.copy", "s" + axes, [exact], "compute", to)
    return parameters, Adapter(copies["lora_A"], copies["lora_B"])


def _normalised(c: Context, p: Parameter, gradient: Fixed, gamma: Fixed | None) -> Fixed:
    """gn: the mean gradient, with γ where the compute copy had it."""
    k = NORMALISER_BITS + max(c.m.loss_tokens).bit_length()
    inverse = np.array([((1 << k + 1) // n + 1) // 2 for n in c.m.loss_tokens[c.steps.first : c.steps.stop]])
    if gamma is not None:
        gradient = c.product(f"{p.name}.grad_gamma", f"s{p.axes},d->s{p.axes}", gradient, gamma)
    term = Term(1, gradient.t, gradient.t.axes, (("s", inverse.astype(np.int64)),))
    mean = Fixed(c.g.linear(f"{p.name}.grad_n", "s" + p.axes, term), gradient.f + k)
    return c.rounded(f"{p.name}.mean", "s" + p.axes, [mean], "momentum")


def _buffer(c: Context, p: Parameter, gn: Fixed, initial: bool) -> Fixed:
    """b [s, …], and its last value into the output state."""
    g, count, axes, name = c.g, c.steps.count, p.axes, momentum_name(p.name)
    if c.m.optimizer.momentum_integer == 0:
        return gn
    if initial:
        start = g.linear(f"initial/{name}", axes, sizes=dict(zip(axes, p.start.shape, strict=True)))
    else:
        start = _state_input(c, name, axes, p.start.shape, "momentum")
    decayed = declare(g, f"{p.name}.decayed", gn.t.axes, gn.t.shape, c.m.widths["momentum"])
    b = g.linear(f"{p.name}.buffer", gn.t.axes, (1, decayed), (1, gn.t))
    shifted = g.axis_map(f"{p.name}.shifted", b, "s", count, np.arange(1, count), np.arange(count - 1))
    first = np.eye(1, count, dtype=np.int64)[0]
    scaled = g.linear(f"{p.name}.mu_b", b.axes, (c.m.optimizer.momentum_integer, shifted),
                      Term(c.m.optimizer.momentum_integer, start, axes, (("s", first),)))
    rescale(g, scaled, MOMENTUM_BITS, c.m.widths["momentum"], decayed.name, given=decayed)
    last = g.axis_map(f"{p.name}.last", b, "s", 1, [0], [count - 1])
    commit_copy(g, g.linear(f"{p.name}.end", axes, (1, last)), c.m.widths["momentum"], name, "state_out")
    return Fixed(b, gn.f)


def finish(
    c: Context, parameters: dict[str, Parameter], gradients: dict[str, Fixed], gamma: Fixed | None, initial: bool,
    final: bool,
) -> None:
    """Updates from the gradients [s, …]; commits state_out and, in the run's last window, delivered."""
    g, optimizer = c.g, c.m.optimizer
    for matrix in MATRICES:
        p = parameters[matrix]
        gn = _normalised(c, p, gradients[matrix], gamma if matrix == "lora_A" else None)
        b = _buffer(c, p, gn, initial)
        scaled = g.linear(f"{p.name}.lr_b", b.t.axes, (optimizer.lr_integer, b.t))
        shift = optimizer.lr_exponent + b.f - MASTER_BITS
        rescale(g, scaled, shift, c.m.widths["delta"], p.delta.name, given=p.delta)
        end = g.linear(f"{p.name}.master", p.axes, (1, p.start), (-1, p.delta))
        out = commit_copy(g, end, c.m.widths["master"], p.name, "state_out")
        if final:
            rescale(g, out, MASTER_BITS - COMPUTE_BITS, c.m.widths["compute"], p.name, "delivered")
