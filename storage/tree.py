"""The log's Merkle tree in memory, its proofs (RFC 6962, sections 2.1.1, 2.1.2), and its tiles (C2SP tlog-tiles, height 8).

    level h, node i = root of leaves i·2^h … (i+1)·2^h − 1, kept if all of these leaves exist: 64 bytes a leaf in all
    tile log/tile/L/N[.p/W] = nodes 256·N … of level 8·L, 32 bytes each: 256 of them, or W if the tile is not full

Index N is written as three-digit parts, all but the last with an x: 1234067 is x001/x234/067. A tile never changes; a tree
that grows adds wider ones. Called by storage/log.py, the cosigner and fsck.
"""

from collections.abc import Iterable, Iterator

from storage.errors import IntegrityError, MissingObject
from storage.object_store import ObjectStore
from verifier.log import EMPTY_ROOT, HASH_BYTES, node_hash

TILE_WIDTH = 256
TILE_HEIGHT = 8


class Tree:
    """Hashes of leaves, appended; roots and paths of every size up to the present one."""

    def __init__(self) -> None:
        self._levels = [bytearray()]

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def extend(self, hashes: Iterable[bytes]) -> None:
        """Append leaf hashes, and every node that they complete."""
        for node in hashes:
            level = 0
            self._levels[0] += node
            while len(self._levels[level]) % (2 * HASH_BYTES) == 0:
                nodes = self._levels[level]
                level += 1
                if level == len(self._levels):
                    self._levels.append(bytearray())
                self._levels[level] += node_hash(bytes(nodes[-2 * HASH_BYTES:-HASH_BYTES]), bytes(nodes[-HASH_BYTES:]))

    def leaf(self, position: int) -> bytes:
        """One leaf's hash."""
        return self._nodes(0, position, position + 1)

    def root(self, size: int) -> bytes:
        """The root of the first `size` leaves."""
        self._check(size)
        return self._root(0, size) if size else EMPTY_ROOT

    def inclusion(self, position: int, size: int) -> list[bytes]:
        """The path from a leaf to the root of the first `size` leaves, from below."""
        self._check(size)
        if not 0 <= position < size:
            raise ValueError(f"entry {position} is not in the log's first {size} entries")
        path: list[bytes] = []
        start, stop = 0, size
        while stop - start > 1:
            middle = start + _split(stop - start)
            path.append(self._root(middle, stop) if position < middle else self._root(start, middle))
            start, stop = (start, middle) if position < middle else (middle, stop)
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The path that shows the tree of `first` leaves as the beginning of the one of `second`."""
        self._check(second)
        if not 0 <= first <= second:
            raise ValueError(f"a log of {second} entries does not continue one of {first}")
        path: list[bytes] = []
        start, stop = 0, second
        while first not in (start, stop):
            middle = start + _split(stop - start)
            path.append(self._root(middle, stop) if first <= middle else self._root(start, middle))
            start, stop = (start, middle) if first <= middle else (middle, stop)
        if start and first == stop:  # the last complete node of the smaller tree; the smaller tree itself is known
            path.append(self._root(start, stop))
        return path[::-1]

    def tiles(self, size: int, known: int = 0) -> Iterator[tuple[str, bytes]]:
        """Path and bytes of every tile of the first `size` leaves that the first `known` leaves lack."""
        self._check(size)
        level = 0
        while (width := size >> TILE_HEIGHT * level) > (before := known >> TILE_HEIGHT * level):
            for index in range(before // TILE_WIDTH, -(-width // TILE_WIDTH)):
                stop = min(width, (index + 1) * TILE_WIDTH)
                data = self._nodes(TILE_HEIGHT * level, index * TILE_WIDTH, stop)
                yield tile_path(level, index, stop - index * TILE_WIDTH), data
            level += 1

    def _nodes(self, level: int, start: int, stop: int) -> bytes:
        return bytes(self._levels[level][start * HASH_BYTES:stop * HASH_BYTES])

    def _root(self, start: int, stop: int) -> bytes:
        """The root of leaves start … stop − 1, where `start` is a multiple of the largest power of two below their number."""
        width = stop - start
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._nodes(level, start >> level, (start >> level) + 1)
        middle = start + _split(width)
        return node_hash(self._root(start, middle), self._root(middle, stop))

    def _check(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"the log has {self.size} entries, not {size}")


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Where a tile is published."""
    digits = f"{index:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[n:n + 3] for n in range(0, len(digits), 3)]
    path = "/".join(["log/tile", str(level), *(f"x{part}" for part in parts[:-1]), parts[-1]])
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def read_tree(objects: ObjectStore, size: int) -> Tree:
    """The tree of `size` leaves from its published tiles of level 0. Believe it only if its root is a signed checkpoint's."""
    tree = Tree()
    for index in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - index * TILE_WIDTH)
        data = _read_tile(objects, index, width)
        tree.extend(data[n:n + HASH_BYTES] for n in range(0, len(data), HASH_BYTES))
    return tree


def _read_tile(objects: ObjectStore, index: int, width: int) -> bytes:
    path = tile_path(0, index, width)
    try:
        data = objects.read(path)
    except MissingObject:
        if width == TILE_WIDTH:
            raise
        data = objects.read(tile_path(0, index))[:width * HASH_BYTES]  # a partial tile may go once the full one is there
    if len(data) != width * HASH_BYTES:
        raise IntegrityError(f"{path} in {objects.where} has {len(data)} bytes instead of {width * HASH_BYTES}: it was changed")
    return data


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << (width - 1).bit_length() - 1
