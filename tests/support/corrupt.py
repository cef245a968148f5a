"""An object store that lies: a wrapper that damages what lies under chosen names on its way out, as an untrusted store may."""

from collections.abc import Callable, Iterator

from storage.errors import MissingObject
from storage.object_store import ObjectStore, check_bytes

Damage = Callable[[bytes], bytes | None]  # None: it is gone


def flip(position: int, bit: int = 0) -> Damage:
    """One bit of one byte."""
    return lambda data: data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1:]


def truncate(size: int) -> Damage:
    return lambda data: data[:size]


def extend(data: bytes) -> bytes:
    return data + b"\x00"


def deleted(data: bytes) -> None:
    return None


def instead(other: bytes) -> Damage:
    """Another object's bytes (swap), or this one's earlier ones (rollback)."""
    return lambda data: other


class CorruptingStore:
    """The store `inner`, but for the names in `damage` (digests of objects, paths of published files)."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner, self.where = inner, inner.where
        self.damage: dict[str, Damage] = {}

    def get(self, digest: str) -> bytes:
        return check_bytes(digest, self._out(digest, self.inner.get), self.where)

    def check(self, digest: str) -> int:
        return len(self.get(digest))

    def has(self, digest: str) -> bool:
        return self.inner.has(digest) and (digest not in self.damage or self.damage[digest](b"x" * 1000) is not None)

    def digests(self) -> Iterator[str]:
        return (digest for digest in self.inner.digests() if self.has(digest))

    def read(self, path: str) -> bytes:
        return self._out(path, self.inner.read)

    def put(self, data: bytes) -> str:
        return self.inner.put(data)

    def restore(self, data: bytes) -> str:
        return self.inner.restore(data)

    def recover(self, digest: str) -> bytes | None:
        return self.inner.recover(digest)

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> None:
        self.inner.publish(path, data, replace=replace)

    def set_aside(self, path: str) -> str:
        return self.inner.set_aside(path)

    def _out(self, name: str, read: Callable[[str], bytes]) -> bytes:
        data = read(name)
        out = self.damage[name](data) if name in self.damage else data
        if out is None:
            raise MissingObject(f"{name} is not in {self.where}")
        return out
