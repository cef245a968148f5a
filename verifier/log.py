"""Merkle tree of the ledger's rows, as whoever checks it sees it: inclusion and consistency proofs (RFC 6962, section 2.1).

    leaf hash = SHA-256(0x00 ‖ leaf)      node = SHA-256(0x01 ‖ left ‖ right)      root of an empty tree = SHA-256("")

The checks are the algorithms of RFC 9162, sections 2.1.3.2 and 2.1.4.2. A tree's size must come from a signed checkpoint,
because a path alone does not determine it. Called by verifier/ (bundles) and storage/, which builds tree and paths.
"""

import hashlib
from collections.abc import Sequence

from protocol.encoding import parse_canonical
from protocol.errors import VerificationError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def require(condition: object, reason: str, where: str, expected: str, actual: str) -> None:
    """VerificationError unless the condition holds."""
    if not condition:
        raise VerificationError(reason, where, expected, actual)


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of one row's bytes."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def verify_inclusion(leaf: bytes, position: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """The leaf of hash `leaf` stands at `position` of the tree of `size` leaves and this root; VerificationError if not."""
    where = f"log entry {position}"
    require(0 <= position < size, "inclusion", where, f"a position below {size}", str(position))
    _, found = _climb(position, size - 1, leaf, path, "inclusion", where)
    require(found == root, "inclusion", where, f"root {root.hex()}", found.hex())


def verify_consistency(size1: int, root1: bytes, size2: int, root2: bytes, path: Sequence[bytes]) -> None:
    """The tree of size1 leaves is the beginning of the one of size2; VerificationError if not."""
    where = f"log of {size2} entries after {size1}"
    require(0 <= size1 <= size2, "consistency", where, f"at least {size1} entries", str(size2))
    if size1 in (0, size2):
        start = root2 if size1 else EMPTY_ROOT
        require(root1 == start and not path, "consistency", where, f"root {start.hex()}, no path", f"{root1.hex()}, {len(path)} hashes")
        return
    require(path, "consistency", where, "a longer path", "none")
    first, *rest = path if size1 & (size1 - 1) else (root1, *path)  # a complete tree is its own first node
    level = (size1 & -size1).bit_length() - 1  # the level of the node that ends the smaller tree
    found = _climb((size1 - 1) >> level, (size2 - 1) >> level, first, rest, "consistency", where)
    require(found == (root1, root2), "consistency", where, f"roots {root1.hex()}, {root2.hex()}", f"{found[0].hex()}, {found[1].hex()}")


def parse_leaf(data: bytes) -> tuple[str, dict[str, str | int]]:
    """(table, {column: value}) of a leaf: canonical JSON of {"table", "row"} with text and integers alone."""
    match parse_canonical(data, "log entry"):
        case {"table": str(table), "row": dict(row), **other} if not other and all(type(item) in (str, int) for item in row.values()):
            return table, row
    raise VerificationError("leaf", "log entry", "a table's name and text or integers by column", "another value")


def _climb(left: int, last: int, start: bytes, path: Sequence[bytes], reason: str, where: str) -> tuple[bytes, bytes]:
    """From the node of index `left` on a level that ends at `last` to the top: roots of all up to that node, and of all."""
    first = second = start
    for sibling in path:
        require(last and len(sibling) == HASH_BYTES, reason, where, "a shorter path of SHA-256 hashes", f"{len(path)} hashes")
        if left & 1 or left == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not left & 1 and left:
                left, last = left >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        left, last = left >> 1, last >> 1
    require(not last, reason, where, "a longer path", f"{len(path)} hashes")
    return first, second
