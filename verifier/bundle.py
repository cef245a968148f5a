"""The evidence about one run, and the file that it is exported in.

A bundle is a ZIP file, members stored without compression:

    bundle.json     canonical JSON {"consistency": [hex], "run": id, "since": size, "version": 1}; consistency is the log's
                    consistency proof from size `since` (0: none) to the checkpoint's size
    checkpoint      the log's signed note (verifier/note.py)
    rows.jsonl      for every row of the run {"leaf": text, "path": [hex], "position": n}: leaf as in verifier/log.py, path its
                    inclusion proof under the checkpoint, positions ascending
    objects/SHA256  the proofs, each under the digest that its row names

Nothing of it is believed here: verifier/evidence.py judges. Sizes are capped before anything is allocated. Whoever reads a live
ledger builds the same `Bundle` (tasks/record.py). Called by verifier/__main__.py and the command line.
"""

import io
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from protocol.encoding import parse_canonical
from verifier.log import require
from verifier.task import MAX_PROOF_BYTES, fail_closed, printable, typed

MAX_DIRECTORY = 1 << 23  # bytes of a ZIP file's directory: about 70,000 proofs
MAX_LINE = 1 << 24
MAX_ROWS = 3 << 26  # bytes of rows that are kept, a kilobyte more for each: about 22,000 tasks, 0.2 GB of memory
_MEMBER = re.compile(r"bundle\.json|checkpoint|rows\.jsonl|objects/[0-9a-f]{64}")
_HEADER: dict[str, type] = {"consistency": list, "run": str, "since": int, "version": int}
_LINE: dict[str, type] = {"leaf": str, "path": list, "position": int}


@dataclass(frozen=True)
class LoggedRow:
    """One ledger row: its place in the log, its leaf, and the inclusion proof."""

    position: int
    leaf: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Bundle:
    """What a verifier is given. `rows` is read once, and refused beyond `limit` bytes; `read` returns an object's bytes or
    raises VerificationError."""

    run_id: str
    checkpoint: bytes
    since: int
    consistency: tuple[bytes, ...]
    rows: Iterable[LoggedRow]
    read: Callable[[str], bytes]
    limit: int = MAX_ROWS


class _Guarded(io.FileIO):
    """A file that never allocates more than `cap` bytes, whatever sizes it declares."""

    cap = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        size = left if size is None or size < 0 else min(size, left)
        require(size <= self.cap, "size", "bundle", f"at most {self.cap} bytes in one piece", str(size))
        return super().read(size)


def read_bundle(path: str, limit: int = MAX_ROWS) -> Bundle:
    """The bundle in a file; OSError if it cannot be opened, VerificationError if it is none."""
    file = _Guarded(path)
    with fail_closed("bundle"):
        archive = zipfile.ZipFile(file)
        file.cap, members = MAX_PROOF_BYTES, {item.filename: item for item in archive.infolist()}
        for item in archive.infolist():
            plain = item.compress_type == zipfile.ZIP_STORED and item.file_size == item.compress_size and not item.flag_bits & ~0x800
            sound = plain and _MEMBER.fullmatch(item.filename) and len(members) == len(archive.filelist)
            require(sound, "bundle-member", printable(item.filename), "a known member, once, not compressed", "another")

    def read(name: str) -> bytes:
        with fail_closed(name):
            require(name in members, "missing-member", name, "in the bundle", "none")
            return archive.read(members[name])

    def rows() -> Iterator[LoggedRow]:
        with fail_closed("rows.jsonl"), io.BufferedReader(archive.open("rows.jsonl")) as lines:  # type: ignore[type-var]
            while line := lines.readline(MAX_LINE):
                row = typed(parse_canonical(line.removesuffix(b"\n"), "rows.jsonl"), _LINE, "rows.jsonl")
                yield LoggedRow(row["position"], row["leaf"].encode(), _hashes(row["path"]))

    header = typed(parse_canonical(read("bundle.json"), "bundle.json"), _HEADER, "bundle.json")
    require(header["version"] == 1, "bundle-version", "bundle.json", "1", printable(header["version"]))
    return Bundle(header["run"], read("checkpoint"), header["since"], _hashes(header["consistency"]), rows(),
                  lambda digest: read(f"objects/{digest}"), limit)


def _hashes(values: list[Any]) -> tuple[bytes, ...]:
    sound = len(values) <= 128 and all(type(x) is str and re.fullmatch("[0-9a-f]{64}", x) for x in values)
    require(sound, "malformed", "path", "at most 128 hashes", printable(values))
    return tuple(bytes.fromhex(x) for x in values)
