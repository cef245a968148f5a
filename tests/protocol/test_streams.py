"""Counter stream, permutations and the initial adapter: known answers and ranges."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from protocol.streams import CounterStream, initial_lora_a


def test_words_are_the_hash_of_prefix_and_counter() -> None:
    label = b"order/7/0"
    block = b"verilora/stream" + len(label).to_bytes(8, "big") + label + (1).to_bytes(8, "big")
    expected = np.frombuffer(hashlib.sha256(block).digest(), dtype=">u8")
    stream = CounterStream(label.decode())
    stream.words(3)  # one block; what is left of it is not used
    assert stream.words(4).tolist() == expected.tolist()


@pytest.mark.parametrize("n", [1, 2, 7, 1000, (1 << 32) - 5])
def test_below_stays_in_range_and_spreads(n: int) -> None:
    values = CounterStream("range").below(n, 4000)
    assert len(values) == 4000 and values.min() >= 0 and values.max() < n
    assert abs(values.mean() / max(n - 1, 1) - 0.5) < 0.03 or n == 1


def stream_of(words: list[int], monkeypatch: pytest.MonkeyPatch) -> CounterStream:
    """A stream whose blocks are these words, again and again."""
    data = b"".join(w.to_bytes(8, "big") for w in words)
    blocks = [data[i : i + 32] for i in range(0, len(data), 32)]
    made = iter(range(1 << 20))
    monkeypatch.setattr(hashlib, "sha256", lambda _: SimpleNamespace(digest=lambda: blocks[next(made) % len(blocks)]))
    return CounterStream("edge")


@pytest.mark.parametrize("n", [3, 5, 1000, (1 << 32) - 5, 1 << 32])
def test_words_at_the_edge_of_rejection(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (1 << 64) // n * n
    words = [min(limit, (1 << 64) - 1), limit - 1, 1, (1 << 64) - 1, 7, limit - 2, limit - 3, 0]
    kept = [w % n for w in words if w < limit]
    found = stream_of(words, monkeypatch).below(n, len(words)).tolist()
    assert found[: len(kept)] == kept and len(found) == len(words)


def test_a_rejected_word_of_a_permutation_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """n = 4: i = 3 takes any word, i = 2 rejects 2^64 − 1 (and takes the next block's first), i = 1 takes any."""
    top = (1 << 64) - 1
    found = stream_of([top, top, top, 0, 5, 9, 9, 9], monkeypatch).permutation(4).tolist()
    order = [0, 1, 2, 3]
    for i, j in ((3, 3), (2, 5 % 3), (1, 1)):
        order[i], order[j] = order[j], order[i]
    assert found == order
    found = stream_of([0, top - 1, 2, 0, 1, 9, 9, 9], monkeypatch).permutation(4).tolist()
    order = [0, 1, 2, 3]
    for i, j in ((3, 0), (2, (top - 1) % 3), (1, 0)):
        order[i], order[j] = order[j], order[i]
    assert found == order


def test_a_successor_that_is_rejected_too_gives_way_to_the_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    top = (1 << 64) - 1
    found = stream_of([0, top, 0, 9, top, 5, 9, 9, 4, 9, 9, 9], monkeypatch).permutation(4).tolist()
    order = [0, 1, 2, 3]
    for i, j in ((3, 0), (2, 4 % 3), (1, 0)):
        order[i], order[j] = order[j], order[i]
    assert found == order


def test_permutations_are_permutations_and_differ_between_epochs() -> None:
    orders = [CounterStream(f"order/7/{epoch}").permutation(50) for epoch in range(3)]
    assert all(sorted(o.tolist()) == list(range(50)) for o in orders)
    assert len({tuple(o.tolist()) for o in orders}) == 3


def test_small_permutations_are_uniform() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for k in range(1200):
        key = tuple(CounterStream(f"uniform/{k}").permutation(3).tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6 and all(140 < n < 260 for n in counts.values())


def test_initial_adapter_known_answer() -> None:
    a = initial_lora_a(7, 0, "q_proj", (2, 12))
    bound = int((1 << 24) / 12**0.5)
    assert np.abs(a).max() <= bound and np.abs(a).max() > bound // 2
    assert hashlib.sha256(a.astype(">i8").tobytes()).hexdigest()[:16] == "6c3724d6241c6e5e"
    assert not np.array_equal(a, initial_lora_a(7, 1, "q_proj", (2, 12)))
    assert not np.array_equal(a, initial_lora_a(8, 0, "q_proj", (2, 12)))
