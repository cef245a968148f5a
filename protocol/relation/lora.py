"""A projection with its LoRA term, forward and backward (arithmetic.md, sections 2, 3).

    forward    Y  = σ∘(x·Wᵀ) + bias + u·Bᵀ,        u = rescale((lora_alpha/r)·x·Aᵀ)
    backward   du = rescale((lora_alpha/r)·dY·B),   dX = (σ∘dY)·W + rescale(du)·A
               dB = dYᵀ·u,                          dA = duᵀ·x

σ [out] are the weight's scales by row, absent with one scale per tensor. A [s,r,in] and B [s,out,r] are this step's compute
copies; behind a norm A stands for A∘γ. lora_alpha/r enters where it is rounded at once: its bits never meet those of Y. Y
and dX are returned as exact summands: the caller adds and rounds once. dA needs du fine, dX is content with a coarse copy,
which keeps the shift of dX's rounding small. A module that is not a target has no terms of A and B.
"""

from dataclasses import dataclass

from protocol.relation.context import Context, Fixed

IN_AXES = {"q_proj": "d", "k_proj": "d", "v_proj": "d", "o_proj": "gqj", "gate_proj": "d", "up_proj": "d",
           "down_proj": "f"}
OUT_AXES = {"q_proj": "gqj", "k_proj": "gj", "v_proj": "gj", "o_proj": "d", "gate_proj": "f", "up_proj": "f",
            "down_proj": "d"}
BEHIND_NORM = {"q_proj": "gamma_attn", "k_proj": "gamma_attn", "v_proj": "gamma_attn", "gate_proj": "gamma_mlp",
               "up_proj": "gamma_mlp"}
# exponents of a projection's input x and of its output's gradient dY; of the last one the layer's own gradient
X_EXPONENT = {"q_proj": "attn_norm.out", "k_proj": "attn_norm.out", "v_proj": "attn_norm.out", "o_proj": "v",
              "gate_proj": "mlp_norm.out", "up_proj": "mlp_norm.out", "down_proj": "z"}
DY_EXPONENT = {"q_proj": "dq", "k_proj": "dk", "v_proj": "dv", "o_proj": "dh", "gate_proj": "dgate", "up_proj": "dup"}
WEIGHT = {"q_proj": "W_q", "k_proj": "W_k", "v_proj": "W_v", "o_proj": "W_o", "gate_proj": "W_gate",
          "up_proj": "W_up", "down_proj": "W_down"}


@dataclass(frozen=True)
class Adapter:
    """One step's compute copies."""

    a: Fixed
    b: Fixed


@dataclass(frozen=True)
class Weight:
    """W [out, in], its scales by row [out] and its bias [out] where the model has them."""

    values: Fixed
    scale: Fixed | None
    bias: Fixed | None


@dataclass(frozen=True)
class Projection:
    """What the backward pass needs of a forward one; `u` and `adapter` are None for a module without LoRA."""

    module: str
    weight: Weight
    x: Fixed
    adapter: Adapter | None
    u: Fixed | None


def _scaled(c: Context, name: str, value: Fixed) -> Fixed:
    """(lora_alpha / r)·value: a power of two costs nothing."""
    n, k = c.m.lora.scale
    return Fixed(value.t if n == 1 else c.g.linear(name, value.t.axes, (n, value.t)), value.f + k)


def by_row(c: Context, name: str, value: Fixed, weight: Weight) -> Fixed:
    """value [.., out] times the weight's scales."""
    if weight.scale is None:
        return value
    return c.product(name, f"{value.t.axes},{weight.scale.t.axes}->{value.t.axes}", value, weight.scale)


def project(
    c: Context, module: str, x: Fixed, weight: Weight, adapter: Adapter | None
) -> tuple[Projection, list[Fixed]]:
    """The projection and the summands of Y, [s,b,t,out]."""
    i, o = IN_AXES[module], OUT_AXES[module]
    terms, u = [by_row(c, f"{module}.xW_rows", c.product(f"{module}.xW", f"sbt{i},{o}{i}->sbt{o}", x, weight.values), weight)], None
    if weight.bias is not None:
        terms.append(weight.bias)
    if adapter is not None:
        exact = c.product(f"{module}.xA", f"sbt{i},sr{i}->sbtr", x, adapter.a)
        u = c.rounded(f"{module}.u", "sbtr", [_scaled(c, f"{module}.xA_n", exact)], "activation")
        terms.append(c.product(f"{module}.uB", f"sbtr,s{o}r->sbt{o}", u, adapter.b))
    return Projection(module, weight, x, adapter, u), terms


def project_backward(
    c: Context, p: Projection, dy: Fixed, need_dx: bool
) -> tuple[list[Fixed], dict[str, Fixed]]:
    """The summands of dX (empty unless needed) and the exact gradients {"lora_A": [s,r,in], "lora_B": [s,out,r]}."""
    m, i, o = p.module, IN_AXES[p.module], OUT_AXES[p.module]
    terms, gradients = [], {}
    if need_dx:
        rows = by_row(c, f"{m}.dy_rows", dy, p.weight)
        terms.append(c.product(f"{m}.dyW", f"sbt{o},{o}{i}->sbt{i}", rows, p.weight.values))
    if p.adapter is not None and p.u is not None:
        dyb = _scaled(c, f"{m}.dyB_n", c.product(f"{m}.dyB", f"sbt{o},s{o}r->sbtr", dy, p.adapter.b))
        du = c.rounded(f"{m}.du", "sbtr", [dyb], "du")
        if need_dx:
            coarse = c.rounded(f"{m}.du_coarse", "sbtr", [du], "gradient")
            terms.append(c.product(f"{m}.duA", f"sbtr,sr{i}->sbt{i}", coarse, p.adapter.a))
        gradients = {
            "lora_A": c.product(f"{m}.dux", f"sbtr,sbt{i}->sr{i}", du, p.x),
            "lora_B": c.product(f"{m}.dyu", f"sbt{o},sbtr->s{o}r", dy, p.u),
        }
    return terms, gradients
