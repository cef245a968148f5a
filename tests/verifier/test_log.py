"""Inclusion and consistency: every pair of sizes up to 256, known answers, and everything wrong rejected."""

from collections.abc import Callable, Sequence

import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from tests.support.merkle import NaiveTree
from verifier.log import EMPTY_ROOT, leaf_hash, node_hash, parse_leaf, verify_consistency, verify_inclusion

LIMIT = 256
TREE = NaiveTree([n.to_bytes(2, "big") for n in range(LIMIT + 2)])

# the eight leaves and roots of Certificate Transparency's reference tests
CT_LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]
CT_ROOTS = [bytes.fromhex(text) for text in (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)]
CT_INCLUSION = {  # (position, size): path
    (0, 1): [],
    (0, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (5, 8): ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
}
CT_CONSISTENCY = {
    (1, 1): [],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 5): ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
}


def refused(reason: str, check: Callable[[], None]) -> None:
    with pytest.raises(VerificationError) as caught:
        check()
    assert caught.value.reason == reason


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def variants(path: Sequence[bytes]) -> list[list[bytes]]:
    """The path with each hash changed, cut, dropped, doubled, with neighbours exchanged, and longer by one."""
    out = [[*path, bytes(32)], [bytes(32), *path]]
    for n, node in enumerate(path):
        before, after = list(path[:n]), list(path[n + 1:])
        out += [[*before, flipped(node), *after], [*before, node[:31], *after], [*before, node + b"\x00", *after],
                [*before, *after], [*before, node, node, *after]]
        if after and after[0] != node:
            out.append([*before, after[0], node, *after[1:]])
    return out


def test_known_answers() -> None:
    tree = NaiveTree(CT_LEAVES)
    assert [tree.root(0, n) for n in range(1, 9)] == CT_ROOTS
    assert leaf_hash(b"") == CT_ROOTS[0]
    assert node_hash(leaf_hash(b""), leaf_hash(b"\x00")) == CT_ROOTS[1]
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for (position, size), path in CT_INCLUSION.items():
        verify_inclusion(leaf_hash(CT_LEAVES[position]), position, size, [bytes.fromhex(x) for x in path], CT_ROOTS[size - 1])
    for (first, second), path in CT_CONSISTENCY.items():
        verify_consistency(first, CT_ROOTS[first - 1], second, CT_ROOTS[second - 1], [bytes.fromhex(x) for x in path])


def test_every_inclusion_up_to_256() -> None:
    for size in range(1, LIMIT + 1):
        root = TREE.root(0, size)
        for position in range(size):
            verify_inclusion(TREE.hashes[position], position, size, TREE.path(position, 0, size), root)


def test_every_consistency_up_to_256() -> None:
    for second in range(LIMIT + 1):
        for first in range(second + 1):
            verify_consistency(first, TREE.root(0, first), second, TREE.root(0, second), TREE.proof(first, second))


def test_no_inclusion_under_a_wrong_leaf_position_size_or_root() -> None:
    for size in range(1, LIMIT + 1):
        root = TREE.root(0, size)
        for position in range(size):
            path, leaf = TREE.path(position, 0, size), TREE.hashes[position]
            for wrong in {position ^ 1, position + 1, position - 1, size, position + size, -1} - {position}:
                refused("inclusion", lambda w=wrong, p=path, h=leaf, s=size, r=root: verify_inclusion(h, w, s, p, r))
            # a path alone does not fix the size: the other size comes with its own root
            refused("inclusion", lambda q=position, p=path, h=leaf, s=size: verify_inclusion(h, q, s + 1, p, TREE.root(0, s + 1)))
            if position % 16 == 0:
                refused("inclusion", lambda q=position, p=path, h=leaf, s=size, r=root: verify_inclusion(flipped(h), q, s, p, r))
                refused("inclusion", lambda q=position, p=path, h=leaf, s=size, r=root: verify_inclusion(h, q, s, p, flipped(r)))
                refused("inclusion", lambda q=position, p=path, h=leaf, s=size: verify_inclusion(h, q, s, p, b""))


def test_no_changed_inclusion_path() -> None:
    for size in range(1, 34):
        for position in range(size):
            for wrong in variants(TREE.path(position, 0, size)):
                leaf, root = TREE.hashes[position], TREE.root(0, size)
                refused("inclusion", lambda w=wrong, q=position, s=size, h=leaf, r=root: verify_inclusion(h, q, s, w, r))


def test_no_consistency_of_wrong_sizes_or_roots() -> None:
    for second in range(1, LIMIT + 1):
        new = TREE.root(0, second)
        for first in range(0, second + 1, 1 + second // 24):
            old, path = TREE.root(0, first), TREE.proof(first, second)
            refused("consistency", lambda f=first, s=second, p=path, o=old, n=new: verify_consistency(f, flipped(o), s, n, p))
            if first:
                refused("consistency", lambda f=first, s=second, p=path, o=old, n=new: verify_consistency(f, o, s, flipped(n), p))
                refused("consistency", lambda f=first, s=second, p=path, o=old, n=new: verify_consistency(f - 1, o, s, n, p))
            if 0 < first < second:  # another size with its own root does not fit the path either
                refused("consistency", lambda f=first + 1, s=second, p=path, n=new: verify_consistency(f, TREE.root(0, f), s, n, p))
                refused("consistency", lambda f=first, s=second, p=path, o=old: verify_consistency(f, o, s + 1, TREE.root(0, s + 1), p))


def test_no_changed_consistency_path() -> None:
    for second in range(1, 34):
        for first in range(second + 1):
            for wrong in variants(TREE.proof(first, second)):
                old, new = TREE.root(0, first), TREE.root(0, second)
                refused("consistency", lambda w=wrong, f=first, s=second, o=old, n=new: verify_consistency(f, o, s, n, w))


def test_sizes_are_whole_and_grow() -> None:
    root = TREE.root(0, 3)
    refused("consistency", lambda: verify_consistency(3, root, 2, TREE.root(0, 2), []))
    refused("consistency", lambda: verify_consistency(-1, root, 3, root, []))
    refused("consistency", lambda: verify_consistency(1, TREE.root(0, 1), 3, root, []))
    refused("inclusion", lambda: verify_inclusion(TREE.hashes[0], 0, 0, [], EMPTY_ROOT))


@pytest.mark.parametrize("value", [
    {"table": "runs"}, {"row": {}}, {"row": {}, "table": 1}, {"row": [], "table": "runs"}, {"row": {}, "table": "runs", "more": 1},
    {"row": {"x": [1]}, "table": "runs"}, {"row": {"x": True}, "table": "runs"}, ["runs", {}], "runs",
])
def test_a_leaf_has_one_form(value: object) -> None:
    refused("leaf", lambda: parse_leaf(canonical_json(value)) and None)


@pytest.mark.parametrize(("data", "reason"), [
    (b'{"row": {}, "table": "runs"}', "non-canonical"), (b'{"row":{"x":1.0},"table":"runs"}', "malformed"), (b"", "malformed"),
    (b'{"row":{"x":null},"table":"runs"}', "malformed"), (b'{"row":{},"row":{},"table":"runs"}', "non-canonical"),
    (b'{"row":{},"table":"runs"}\n', "non-canonical"), (b"\xff", "malformed"), (b"[" * 100_000, "malformed"),
])
def test_a_leaf_has_one_encoding(data: bytes, reason: str) -> None:
    refused(reason, lambda: parse_leaf(data) and None)


def test_a_leaf_is_read() -> None:
    assert parse_leaf(b'{"row":{"layer":-1,"name":"base"},"table":"commitments"}') == ("commitments", {"layer": -1, "name": "base"})


def test_a_larger_tree_is_no_beginning_of_a_smaller_one() -> None:
    """Roots made to fit: without the comparison of sizes the path would lead from the one to the other."""
    root, sibling = leaf_hash(b"a"), leaf_hash(b"b")
    for size1, size2 in ((3, 2), (-1, 2), (2, -1)):
        refused("consistency", lambda a=size1, b=size2: verify_consistency(a, root, b, node_hash(root, sibling), [root, sibling]))


def test_a_path_is_as_long_as_the_tree_is_high_and_of_hashes() -> None:
    """Roots made to fit a path that is too long, or whose hash is none."""
    leaf, other = leaf_hash(b"a"), leaf_hash(b"b")
    refused("inclusion", lambda: verify_inclusion(leaf, 0, 1, [other], node_hash(other, leaf)))
    refused("inclusion", lambda: verify_inclusion(leaf, 0, 1, [other], node_hash(leaf, other)))
    for wrong in (b"", other + b"x", other[:-1]):
        refused("inclusion", lambda w=wrong: verify_inclusion(leaf, 1, 2, [w], node_hash(w, leaf)))
    verify_inclusion(leaf, 1, 2, [other], node_hash(other, leaf))


def test_a_position_lies_within_the_tree() -> None:
    """Else the only leaf would stand at every position of its tree."""
    leaf = leaf_hash(b"a")
    verify_inclusion(leaf, 0, 1, [], leaf)
    for position, size in ((1, 1), (2, 1), (-1, 1), (0, 0), (0, -1)):
        refused("inclusion", lambda p=position, s=size: verify_inclusion(leaf, p, s, [], leaf))
