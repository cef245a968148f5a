"""The end of the model: logits, cross-entropy, its gradient, the loss (protocol.md 1, `head(w)`; arithmetic.md 2, 3).

    logits = σ∘(norm(x)·Wᵀ);  (P, index) = softmax over v;  dl = P − 2^fP·onehot(label)
    dx̂ = rescale(mask·((σ∘dl)·W)),  dx_out = gradient of the norm's input
    loss_s = Σ_{b,t} mask·index[label], in units of 2^−g: the index at the label is −log p

Gradients are of the sum of token losses. Inputs: head W [v,d] (final norm folded in; σ [v] its scales by row, if any),
dataset, x_in; outputs: dx_out, the published loss per step, and Σ mask = the manifest's loss_tokens of each step. Of several
parts the last adds up the sums of the others, which they commit to, so that nobody learns a part's own.
"""

import numpy as np

from protocol.relation.base import base_weight
from protocol.relation.context import Context, Fixed
from protocol.relation.graph import Tensor
from protocol.relation.lora import by_row
from protocol.relation.norm import norm_backward, norm_forward
from protocol.relation.rounding import exact_copy, rescale
from protocol.relation.softmax import softmax
from protocol.relation.tokens import batch_ids, dataset_input, one_hot_ids


def build_head(c: Context) -> None:
    g, model, bits = c.g, c.m.model, c.m.widths["vocabulary_probability"]
    weight = base_weight(c, "head", "W")
    x = c.input("x_in", "x", "sbtd", (*c.rows, model.hidden), "residual", "/x")
    label = one_hot_ids(c, batch_ids(c, 1))
    mask = g.gather("mask", dataset_input(c, "mask"), "sb", c.m.batches(c.steps, c.part))

    norm = norm_forward(c, "norm", x)
    logits = by_row(c, "logits_rows", c.product("logits", "sbtd,vd->sbtv", norm.out, weight.values), weight)
    p, index = softmax(c, "vocab", logits, bits, c.exponent("vocab.g"))
    error = Fixed(g.linear("error", "sbtv", (1, p.t), (-1 << bits, label)), bits)
    back = c.product("error_W", "sbtv,vd->sbtd", by_row(c, "error_rows", error, weight), weight.values)
    masked = Fixed(g.product("masked_error_W", "sbtd,sbt->sbtd", back.t, mask), back.f)
    d_norm = c.rounded("norm.dx", "sbtd", [masked], "gradient")
    norm_backward(c, "norm", norm, d_norm, None, "dx_out", c.exponent(f"/dx/{model.layers}"), "dx_out", "dx")
    # Committed, because its range check gives the sum over tokens a bound that interval arithmetic could not.
    token_loss = rescale(g, g.product("picked", "sbtv,sbtv->sbt", label, index), 0, 16, "token_loss", signed=False)
    _add_up(c, mask, g.product("loss", "sbt,sbt->s", token_loss, mask))


def _add_up(c: Context, mask: Tensor, loss: Tensor) -> None:
    """A step's numbers from its parts': the loss published, the tokens compared with the manifest's."""
    g, tokens = c.g, c.g.linear("tokens", "s", (1, mask))
    if c.part < c.m.part_numbers[-1]:
        for name, t in (("loss", loss), ("tokens", tokens)):
            exact_copy(g, t, name, t.magnitude, "loss")
        return
    loss, tokens = (
        g.linear(f"{name}.sum", "s", (1, t), *[
            (1, g.input(f"loss{part}", name, "s", (c.steps.count,), -t.magnitude, t.magnitude)) for part in c.m.part_numbers[:-1]
        ])
        for name, t in (("loss", loss), ("tokens", tokens))
    )
    counts = np.array(c.m.loss_tokens[c.steps.first : c.steps.stop], dtype=np.int64)
    g.zero(g.linear("loss_tokens", "s", (1, tokens), (-1, g.public("loss_tokens.expected", "s", counts))))
    if c.m.publish_loss:
        g.publish(loss, "loss")
