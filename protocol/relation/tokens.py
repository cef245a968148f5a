"""Secret token ids of a window as one-hot rows, shared by the embedding and the loss (arithmetic.md, section 2).

    id = base·i + k,  base = ⌈√V⌉;  H1[.., i], H2[.., k] committed, cells 0/1, rows sum to 1, base·⟨i,H1⟩ + ⟨k,H2⟩ = id
    onehot[.., v] = H1[.., v // base]·H2[.., v mod base]

The ids are cells of the dataset commitment, gathered in the public order; its range task proves 0 ≤ id < V.
"""

from math import isqrt

import numpy as np

from protocol.relation.context import Context
from protocol.relation.graph import Tensor
from protocol.relation.rounding import range_check


def dataset_input(c: Context, name: str) -> Tensor:
    """"tokens" [e, T+1] or "mask" [e, T]."""
    length, top = c.m.sequence_length, c.m.model.vocab - 1
    if name == "tokens":
        return c.g.input("dataset", name, "et", (c.m.examples, length + 1), 0, top)
    return c.g.input("dataset", name, "et", (c.m.examples, length), 0, 1)


def batch_ids(c: Context, offset: int) -> Tensor:
    """[s,b,t]: the ids at positions offset … offset + T − 1 of the window's examples (0 inputs, 1 labels)."""
    length = c.m.sequence_length
    rows = c.g.gather("batch", dataset_input(c, "tokens"), "sb", c.m.batches(c.steps, c.part))
    return c.g.axis_map("ids", rows, "t", length, np.arange(length), np.arange(length) + offset)


def digit_sizes(vocab: int) -> tuple[int, int]:
    """(lengths of H1, of H2 = base)."""
    base = isqrt(vocab - 1) + 1
    return -(-vocab // base), base


def one_hot_ids(c: Context, ids: Tensor) -> Tensor:
    """[s,b,t,v]."""
    g, (n_high, base) = c.g, digit_sizes(c.m.model.vocab)
    digits, value = [], []
    for name, axis, size, weight in (("high", "i", n_high, base), ("low", "k", base, 1)):
        digit = g.commit(f"ids.{name}", "sbt" + axis, (*ids.shape, size), 0, 1)
        range_check(g, digit, 1, digit.name)
        g.zero(g.linear(f"{digit.name}.sum", "sbt", (1, digit), const=-1))
        dot = g.axis_map(f"{digit.name}.dot", digit, axis, 1, np.zeros(size, dtype=np.int64), np.arange(size),
                         np.arange(size) * weight)
        digits.append(digit)
        value.append(dot)
    g.hint("digits", [ids], digits, base=base)
    g.zero(g.linear("ids.equal", "sbt", (1, value[0]), (1, value[1]), (-1, ids)))
    return g.one_hot("one_hot", digits[0], digits[1], "v", c.m.model.vocab)
