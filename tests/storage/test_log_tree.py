"""The log's tree and tiles: every proof up to 256 entries against RFC 6962's recursion, tiles against C2SP's examples."""

from pathlib import Path

import pytest

from storage.errors import IntegrityError, MissingObject
from storage.local import LocalObjectStore
from storage.tree import Tree, read_tree, tile_path
from tests.support.merkle import NaiveTree, hash_leaf

NAIVE = NaiveTree([n.to_bytes(2, "big") for n in range(257)])


def test_every_proof_of_the_tree_up_to_256() -> None:
    tree = Tree()
    for size in range(257):
        assert tree.root(size) == NAIVE.root(0, size)
        for first in range(size + 1):
            assert tree.consistency(first, size) == NAIVE.proof(first, size)
        for position in range(size):
            assert tree.inclusion(position, size) == NAIVE.path(position, 0, size)
        tree.extend([NAIVE.hashes[size]])
    assert (tree.size, tree.leaf(200), tree.root(100)) == (257, NAIVE.hashes[200], NAIVE.root(0, 100))
    for refused in (lambda: tree.root(258), lambda: tree.inclusion(3, 3), lambda: tree.inclusion(-1, 3), lambda: tree.consistency(4, 3)):
        with pytest.raises(ValueError):
            refused()


def test_tile_paths() -> None:
    """C2SP tlog-tiles: the examples of the specification."""
    assert tile_path(0, 1234067) == "log/tile/0/x001/x234/067"
    assert tile_path(2, 0, 1) == "log/tile/2/000.p/1"
    assert tile_path(1, 999, 255) == "log/tile/1/999.p/255"
    assert tile_path(0, 1000) == "log/tile/0/x001/000"


def test_tiles_of_70000_entries() -> None:
    """The specification's example: 273 full tiles and one of 112, one full of level 1 and one of 17, one of level 2 of width 1."""
    tree = Tree()
    tree.extend(hash_leaf(n.to_bytes(4, "big")) for n in range(70_000))
    tiles = dict(tree.tiles(70_000))
    assert {path for path in tiles if ".p/" in path} == {tile_path(0, 273, 112), tile_path(1, 1, 17), tile_path(2, 0, 1)}
    assert len(tiles) == 273 + 1 + 1 + 1 + 1
    assert {len(data) for path, data in tiles.items() if ".p/" not in path} == {8192}
    grown: dict[str, bytes] = {}
    for known, size in ((0, 1), (1, 255), (255, 256), (256, 257), (257, 65_536), (65_536, 70_000)):
        fresh = dict(tree.tiles(size, known))
        assert not grown.keys() & fresh.keys()  # a tile is written once
        grown |= fresh
    assert tiles.items() <= grown.items()
    assert list(tree.tiles(70_000, 70_000)) == []


def test_a_tree_is_read_from_tiles(tmp_path: Path) -> None:
    objects, tree = LocalObjectStore(tmp_path), Tree()
    tree.extend(hash_leaf(n.to_bytes(4, "big")) for n in range(600))
    for size in (100, 256, 600):
        for path, data in tree.tiles(size):
            objects.publish(path, data)
    for size in (0, 1, 100, 256, 600):
        assert read_tree(objects, size).root(size) == tree.root(size)
    with pytest.raises(MissingObject):
        read_tree(objects, 550)  # which was never published
    (tmp_path / tile_path(0, 0, 100)).unlink()
    assert read_tree(objects, 100).root(100) == tree.root(100)  # the full tile serves for a partial one
    path = tmp_path / tile_path(0, 1)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match="8191 bytes"):
        read_tree(objects, 600)
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert read_tree(objects, 600).root(600) != tree.root(600)  # which is what a signed checkpoint is for
