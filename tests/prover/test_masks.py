"""Masked and padded positions contribute nothing to state, loss or gradients; prompts do act as context. Exact integers."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.manifest import StepRange
from protocol.relation.graph import IntArray
from protocol.relation.model import build
from prover.executor.evaluate import evaluate
from prover.executor.torch_ops import TorchOps
from prover.executor.trainer import Trainer, WindowTrace, loss_index
from tests.toy import Toy, toy

PROMPT, LENGTHS = 2, (4, 5, 6, 7, 5, 8)  # labels 0 and 1 are a prompt's; labels from LENGTHS[e] on are padding


def masked(kind: str) -> Toy:
    """Two steps over six examples of eight labels: a prompt, an answer, padding."""
    made = toy(steps=2, window_steps=2, sequence_length=8, batch_size=3, kind=kind, **({"max_grad_norm": "1"} if kind == "adamw" else {}))
    position = np.arange(8)
    mask = np.stack([(position >= PROMPT) & (position < length) for length in LENGTHS]).astype(np.int64)
    counts = tuple(int(mask[made.manifest.batch(k)].sum()) for k in range(2))
    return replace(made, manifest=replace(made.manifest, loss_tokens=counts), mask=mask)


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def made(request: pytest.FixtureRequest) -> Toy:
    return masked(request.param)


def train(made: Toy, tokens: IntArray) -> WindowTrace:
    return Trainer(made.manifest, made.base, tokens, made.mask).run_window(made.manifest.windows()[0])


def same(a: WindowTrace, b: WindowTrace) -> bool:
    """Whether loss, optimizer state, delivered adapter and gradient norms are equal, bit for bit."""
    pairs = [(a.loss, b.loss), (a.clip, b.clip), *((a.norms[n], b.norms[n]) for n in a.norms)]
    pairs += [(x[n][k], y[n][k]) for x, y in ((a.state_out, b.state_out), (a.delivered, b.delivered)) for n in x for k in x[n]]
    return all(np.array_equal(x, y) for x, y in pairs if x is not None)


def test_padding_contributes_nothing(made: Toy) -> None:
    rng, tokens = np.random.default_rng(3), made.tokens.copy()
    for row, length in enumerate(LENGTHS):
        tokens[row, length + 1 :] = rng.integers(0, made.manifest.model.vocab, 8 - length)
    assert not np.array_equal(tokens, made.tokens)
    before, after = train(made, made.tokens), train(made, tokens)
    assert not np.array_equal(before.x[0], after.x[0]) and same(before, after)
    for step in range(2):  # no gradient comes back from a padded position
        for place, example in enumerate(made.manifest.batch(step).tolist()):
            assert not before.dx[1][step, place, LENGTHS[example] :].any()
            assert before.dx[1][step, place, LENGTHS[example] - 1].any()


def test_labels_of_masked_positions_contribute_nothing(made: Toy) -> None:
    """The head alone, because a prompt's token is also an input: other labels for the same hidden states."""
    trace, tokens, model = train(made, made.tokens), made.tokens.copy(), made.manifest.model
    tokens[:, 1 : PROMPT + 1] = (tokens[:, 1 : PROMPT + 1] + 5) % model.vocab
    head = build(made.manifest, "head", StepRange(0, 2))
    loss = head.tensors[loss_index(head)]
    gradient = next(t for t in head.tensors if t.name == "dx")

    def outputs(ids: IntArray) -> tuple[IntArray, IntArray]:
        inputs = {("dataset", "tokens"): ids, ("dataset", "mask"): made.mask, ("x_in", "x"): trace.x[model.layers]}
        inputs |= {("head", name): array for name, array in made.base["head"].items()}
        found = evaluate(head, inputs, [loss, gradient], TorchOps())
        return found[loss.index], found[gradient.index]

    before, after = outputs(made.tokens), outputs(tokens)
    assert np.array_equal(before[0], trace.loss) and np.array_equal(before[1], trace.dx[model.layers])
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])
    tokens[:, PROMPT + 1] = (tokens[:, PROMPT + 1] + 5) % model.vocab  # the first label that is learnt: the control
    assert not np.array_equal(outputs(tokens)[0], before[0])


def test_prompts_are_context(made: Toy) -> None:
    tokens = made.tokens.copy()
    tokens[:, 0] = (tokens[:, 0] + 5) % made.manifest.model.vocab  # an input, never a label
    before, after = train(made, made.tokens), train(made, tokens)
    assert not np.array_equal(before.loss, after.loss) and not same(before, after)
