"""SwiGLU between the projections, forward and backward (arithmetic.md, sections 2, 3).

    (a, a') = SiLU table at the gate index i,  up = rescale(Z_up),  z = rescale(a·up)
    d_gate = rescale(dz∘up∘a'),  d_up = rescale(dz∘a)

The gate index i has 16 bits with f_i fractional bits; the table's lookup is also its range check. a has f_i fractional
bits, a' SLOPE_BITS. All tensors are [s,b,t,f].
"""

from dataclasses import dataclass

from protocol.relation.context import Context, Fixed
from protocol.relation.rounding import attach, declare
from protocol.relation.tables import table_columns

SLOPE_BITS = 14
INDEX_BITS = 16


@dataclass(frozen=True)
class Mlp:
    a: Fixed
    slope: Fixed
    up: Fixed
    z: Fixed


def mlp(c: Context, gate: list[Fixed], up: list[Fixed]) -> Mlp:
    g, f = c.g, c.exponent("gate")
    exact = c.add("gate.exact", "sbtf", *gate)
    index = declare(g, "gate", "sbtf", exact.t.shape, INDEX_BITS)
    attach(g, exact.t, exact.f - f, index)
    table = f"silu:{f}:{f}:{SLOPE_BITS}"
    _, values, slopes = table_columns(table)
    a = g.commit("silu", "sbtf", index.shape, int(values.min()), int(values.max()))
    slope = g.commit("silu.slope", "sbtf", index.shape, int(slopes.min()), int(slopes.max()))
    g.hint("table", [index], [a, slope], table=table)
    g.lookup(table, index, a, slope)
    wide = c.rounded("up", "sbtf", up, "activation")
    z = c.rounded("z", "sbtf", [c.product("a_up", "sbtf,sbtf->sbtf", Fixed(a, f), wide)], "activation")
    return Mlp(Fixed(a, f), Fixed(slope, SLOPE_BITS), wide, z)


def mlp_backward(c: Context, m: Mlp, dz: Fixed, need_gate: bool, need_up: bool) -> tuple[Fixed | None, Fixed | None]:
    """(d_gate, d_up), committed; None where not needed."""
    d_gate = d_up = None
    if need_gate:
        dz_up = c.product("dz_up", "sbtf,sbtf->sbtf", dz, m.up)
        d_gate = c.rounded("dgate", "sbtf", [c.product("dz_up_slope", "sbtf,sbtf->sbtf", dz_up, m.slope)], "gradient")
    if need_up:
        d_up = c.rounded("dup", "sbtf", [c.product("dz_a", "sbtf,sbtf->sbtf", dz, m.a)], "gradient")
    return d_gate, d_up
