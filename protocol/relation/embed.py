"""Embedding of a window's inputs (protocol.md 1, `embed(w)`): X_0 = rescale(onehot(ids)·E), an exact shift where the
residual stream has at least the embedding's fractional bits. Inputs: dataset, embedding E [v,d]; output x_out [s,b,t,d].
"""

from protocol.relation.base import base_input
from protocol.relation.context import Context, Fixed
from protocol.relation.tokens import batch_ids, one_hot_ids


def build_embed(c: Context) -> None:
    table = base_input(c, "embedding", "E")
    rows = c.g.product("rows", "sbtv,vd->sbtd", one_hot_ids(c, batch_ids(c, 0)), table.t)
    c.rounded("x", "sbtd", [Fixed(rows, table.f)], "residual", c.exponent("/x"), "x_out")
