"""Secrets of a run by name, and the delivered adapter among them (private store only).

One file holds everything needed to open one commitment: its blinding seed and its tensors, as an .npz of plain arrays
(never pickled). It is written in one piece, so a commitment has both or neither.

    runs/RUN/commitments/x/1/3-ROOT      the commitment "x/1@3" with a root that begins so; "start" for those known at the start

The root is part of the name, so that two processes which commit to one window under their own seeds never write over each
other's: the root that was recorded tells which secrets stand. A copy of one known at the start ("base/0@16") has a seed of its own
and no tensors: they are those of the start.

Imports neither executor nor kernels, so exporting an adapter needs none. Called by the other tasks and by `verilora adapter`.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np

from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from protocol.statement import PUBLIC_BASE, Name
from prover.files.groups import narrowest
from storage.private import PrivateStore

_SEED = "seed"
_TENSOR = "tensor."  # keeps a tensor's name apart from the seed's
Root = Callable[[Name], str]  # the recorded root of a commitment, in hexadecimal digits


def folder(run_id: str) -> str:
    """Where a run's secrets lie."""
    return f"runs/{run_id}"


def secret_name(run_id: str, name: Name, root: str) -> str:
    """The private store's name for a commitment's seed and tensors; `root` in hexadecimal digits."""
    return f"{folder(run_id)}/commitments/{name.base}/{'start' if name.window < 0 else name.window}-{root[:16]}"


def save_committed(private: PrivateStore, run_id: str, name: Name, root: str, seed: bytes, tensors: Mapping[str, IntArray]) -> None:
    """Keep the seed and the tensors of one commitment."""
    arrays = {} if _is_copy(name) else {_TENSOR + key: narrowest(value) for key, value in tensors.items()}
    arrays[_SEED] = np.frombuffer(seed, dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    private.put(secret_name(run_id, name, root), buffer.getvalue())


def load_committed(private: PrivateStore, run_id: str, name: Name, root: Root) -> tuple[bytes, dict[str, IntArray]]:
    """The seed and the int64 tensors of one commitment; MissingObject if this store does not have them."""
    with np.load(io.BytesIO(private.get(secret_name(run_id, name, root(name)))), allow_pickle=False) as stored:
        tensors = {key.removeprefix(_TENSOR): stored[key].astype(np.int64) for key in stored.files if key != _SEED}
        seed = stored[_SEED].tobytes()
    return seed, load_committed(private, run_id, Name(name.base), root)[1] if _is_copy(name) else tensors


def _is_copy(name: Name) -> bool:
    return name.window >= 0 and name.kind in (*PUBLIC_BASE, "dataset")


def delivered(private: PrivateStore, run_id: str, manifest: RunManifest, root: Root) -> dict[int, tuple[bytes, dict[str, IntArray]]]:
    """{layer: (seed, {"q_proj.lora_A": …})} of the final adapter, whose commitments are delivered/{layer}@{windows}."""
    last = len(manifest.windows())
    return {n: load_committed(private, run_id, Name(f"delivered/{n}", last), root) for n in range(manifest.model.layers)}
