"""Counter stream, permutations and the initial adapter: known answers and ranges."""

import hashlib

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
