"""A dataset committed by its owner, before a run and elsewhere: a secret opening, and the public id that it opens.

    dataset-opening.npz  (mode 600)  tokens, mask, the seed of the blinding, metadata: goes to whoever trains, to nobody else
    dataset.json         (public)    id, owner, profile, number of openings, shape, tokenizer digest: goes into an order

The id is that of the run's commitment "dataset": the seed, the arrays, the profile's code with blinding for so many openings, and
the tokenizer digest as its label. Reading an opening recomputes it, so a damaged or altered file is refused. Every opening of
the commitment spends blinding, counted by id in the ledger: one opening belongs to one ledger, or its count is wrong and
the data may leak (docs/data.md). Called by `verilora dataset commit` and by the run's planning.
"""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from protocol.encoding import canonical_json
from protocol.layout import CommitmentLayout
from protocol.params import PROFILES
from protocol.relation.graph import IntArray
from prover.backend import select
from prover.commitment.commit import commit
from prover.files.dataset import TokenisedDataset
from prover.files.jsonl import DatasetError
from prover.randomness import fresh_seed

SECRET_NAME, PUBLIC_NAME = "dataset-opening.npz", "dataset.json"
_VERSION = 1
_KINDS = {"version": int, "id": str, "owner": str, "profile": str, "openings": int, "tokenizer_digest": str}


@dataclass(frozen=True, eq=False)
class DatasetOpening:
    """tokens int64 [E, T+1], mask int64 [E, T], the 32-byte seed of the commitment's blinding and salts."""

    tokens: IntArray
    mask: IntArray
    seed: bytes
    tokenizer_digest: str
    owner: str
    profile: str
    openings: int
    id: str

    @property
    def sequence_length(self) -> int:
        return int(self.mask.shape[1])

    def public(self) -> dict[str, Any]:
        """What everybody may know."""
        return {key: getattr(self, key) for key in _KINDS if key != "version"} | {
            "version": _VERSION, "examples": len(self.tokens), "sequence_length": self.sequence_length,
        }


def commit_dataset(dataset: TokenisedDataset, owner: str, profile: str, openings: int) -> DatasetOpening:
    """Commit under a fresh seed. ValueError names the argument that cannot be."""
    if not 1 <= len(owner.strip()) <= 200 or not owner.isprintable():
        raise ValueError("--owner: give the name of whose data it is, at most 200 printable characters")
    if profile not in PROFILES:
        raise ValueError(f"--profile: {profile!r} is no profile; valid is one of {', '.join(PROFILES)}")
    if not 1 <= openings <= PROFILES[profile].max_openings:
        raise ValueError(f"--openings: {openings} is not possible; valid is 1 to {PROFILES[profile].max_openings} with {profile}")
    seed = fresh_seed()
    identity = _identity(dataset.tokens, dataset.mask, seed, dataset.tokenizer_digest, profile, openings)
    return DatasetOpening(dataset.tokens, dataset.mask, seed, dataset.tokenizer_digest, owner.strip(), profile, openings, identity)


def write_opening(folder: Path, opening: DatasetOpening) -> tuple[Path, Path]:
    """(secret file, public file) in `folder`, made if absent; existing files are never replaced."""
    folder = Path(folder)
    secret, public = folder / SECRET_NAME, folder / PUBLIC_NAME
    for path in (secret, public):
        if path.exists():
            raise DatasetError(path, 0, "exists already, and an opening that is lost cannot be made again. Choose another --out.")
    metadata = canonical_json({key: opening.public()[key] for key in _KINDS})
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, allow_pickle=False, tokens=opening.tokens.astype(np.int32), mask=opening.mask.astype(np.int8),
        seed=np.frombuffer(opening.seed, dtype=np.uint8), metadata=np.frombuffer(metadata, dtype=np.uint8),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(secret, buffer.getvalue(), 0o600)
        _write(public, (json.dumps(opening.public(), indent=2, ensure_ascii=False) + "\n").encode(), 0o644)
    except OSError as error:
        raise DatasetError(folder, 0, f"cannot be written ({error.strerror}). Choose another --out.") from error
    return secret, public


def read_opening(file: Path) -> DatasetOpening:
    """The opening in `file`, its id recomputed; DatasetError if it is none or was altered."""
    try:
        with np.load(io.BytesIO(Path(file).read_bytes()), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in ("tokens", "mask", "seed", "metadata")}
        data = json.loads(arrays["metadata"].tobytes())
    except OSError as error:
        raise DatasetError(file, 0, f"cannot be read ({error.strerror}). dataset_opening is the path of {SECRET_NAME}.") from error
    except (ValueError, KeyError, EOFError, BadZipFile, ZlibError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise DatasetError(file, 0, f"is no dataset opening, or a damaged one ({error}). Get an intact copy from its owner.") from error
    tokens, mask, seed = arrays["tokens"].astype(np.int64), arrays["mask"].astype(np.int64), arrays["seed"].tobytes()
    shapes = tokens.ndim == mask.ndim == 2 and len(tokens) == len(mask) > 0 and tokens.shape[1] == mask.shape[1] + 1 > 1
    kinds = isinstance(data, dict) and data.keys() == _KINDS.keys() and all(type(data[k]) is kind for k, kind in _KINDS.items())
    if not shapes or not kinds or len(seed) != 32 or data["version"] != _VERSION or data["profile"] not in PROFILES:
        raise DatasetError(file, 0, f"is no dataset opening of version {_VERSION}. Have its owner commit again with this version.")
    if not 1 <= data["openings"] <= PROFILES[data["profile"]].max_openings or not ((mask == 0) | (mask == 1)).all() or tokens.min() < 0:
        raise DatasetError(file, 0, "holds values that no dataset has. Get an intact copy from its owner.")
    found = _identity(tokens, mask, seed, data["tokenizer_digest"], data["profile"], data["openings"])
    if found != data["id"]:
        raise DatasetError(file, 0, f"opens {found}, not {data['id']} as it says: it was altered. Get an intact copy from its owner.")
    return DatasetOpening(tokens, mask, seed, **{key: data[key] for key in _KINDS if key != "version"})


def _identity(tokens: IntArray, mask: IntArray, seed: bytes, tokenizer_digest: str, profile: str, openings: int) -> str:
    """The id that protocol/statement.py's layout of "dataset" gives to these values."""
    params, arrays = PROFILES[profile], {"tokens": tokens, "mask": mask}
    layout = CommitmentLayout.pack([(n, a.shape) for n, a in arrays.items()], params.code(openings), tokenizer_digest)
    return commit(select(), layout, arrays, seed).id


def _write(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # the umask must neither widen nor narrow it
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
