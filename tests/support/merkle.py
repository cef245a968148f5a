"""The log's tree as RFC 6962, section 2.1 defines it, by recursion over lists: a reference for tree and proofs."""

import hashlib
from collections.abc import Sequence


def hash_leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


class NaiveTree:
    """MTH, PATH and PROOF over the hashes of some leaves; every subtree's root is remembered."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.hashes = [hash_leaf(leaf) for leaf in leaves]
        self._roots: dict[tuple[int, int], bytes] = {}

    def root(self, start: int, stop: int) -> bytes:
        """MTH(D[start:stop])."""
        if (start, stop) not in self._roots:
            if stop == start:
                found = hashlib.sha256(b"").digest()
            elif stop - start == 1:
                found = self.hashes[start]
            else:
                k = split(stop - start)
                found = hashlib.sha256(b"\x01" + self.root(start, start + k) + self.root(start + k, stop)).digest()
            self._roots[start, stop] = found
        return self._roots[start, stop]

    def path(self, m: int, start: int, stop: int) -> list[bytes]:
        """PATH(m, D[start:stop])."""
        if stop - start == 1:
            return []
        k = split(stop - start)
        if m < k:
            return [*self.path(m, start, start + k), self.root(start + k, stop)]
        return [*self.path(m - k, start + k, stop), self.root(start, start + k)]

    def proof(self, m: int, n: int) -> list[bytes]:
        """PROOF(m, D[0:n]); nothing to show for m = 0 and m = n."""
        return self.subproof(m, 0, n, True) if 0 < m < n else []

    def subproof(self, m: int, start: int, stop: int, complete: bool) -> list[bytes]:
        if m == stop - start:
            return [] if complete else [self.root(start, stop)]
        k = split(stop - start)
        if m <= k:
            return [*self.subproof(m, start, start + k, complete), self.root(start + k, stop)]
        return [*self.subproof(m - k, start + k, stop, False), self.root(start, start + k)]


def split(n: int) -> int:
    """The largest power of two below n."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k
