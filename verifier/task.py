"""Verify one task: recompute its statement, then run the schedule over the proof's bytes.

Everything that determines what is proved (graph, layouts, parameters, commitment ids) is recomputed from the manifest;
the record supplies roots, published values and the proof. Called by verifier/run.py.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from protocol.channel import VerifyingChannel
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.params import Params, profile
from protocol.relation.graph import BOUND, WITNESS, Graph, IntArray, RelationError
from protocol.relation.graph import Committed as CommittedOp
from protocol.relation.model import commitment_tensors
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from protocol.soundness import Soundness, require_bits, task_soundness
from protocol.statement import Task, commitment_layout, max_blinding, statement_content, window_of

MAX_PROOF_BYTES = 1 << 26  # of a ledger's object and of a bundle's: the same evidence has the same verdict
MAX_STATEMENT_BYTES = 1 << 20


@dataclass(frozen=True)
class Evidence:
    """What the record holds for one task: the statement's canonical JSON and the proof."""

    content: bytes
    proof: bytes


def published_values(graph: Graph, content: bytes) -> dict[str, IntArray]:
    """The published values of a recorded statement, with exactly the names and shapes that the relation publishes."""
    if len(content) > MAX_STATEMENT_BYTES:
        raise VerificationError("size", "statement", f"at most {MAX_STATEMENT_BYTES} bytes", str(len(content)))
    try:
        stated = json.loads(content.decode())["published"]  # of bytes json guesses the encoding, and imports it
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationError("malformed", "statement", "canonical JSON with published values", type(error).__name__) from error
    wanted = {item.name: item.tensor.shape for item in graph.published}
    if not isinstance(stated, dict) or sorted(stated) != sorted(wanted):
        raise VerificationError("published-names", "statement", str(sorted(wanted)), printable(stated))
    out = {}
    for name, shape in wanted.items():
        flat, size = stated[name], prod(shape)
        if len(shape) != 1 or not isinstance(flat, list) or len(flat) != size:
            raise VerificationError("published-shape", name, str(shape), printable(flat))
        if not all(type(x) is int and abs(x) < BOUND for x in flat):
            raise VerificationError("published-range", name, "integers below 2^62", printable(flat))
        out[name] = np.array(flat, dtype=np.int64).reshape(shape)
    return out


def require_size(manifest: RunManifest, task: Task, proof_bytes: int) -> None:
    """VerificationError if the proof is too short for the tensors that its task names, before anything of their size is built.

    A row of ℓ cells that exists is opened at t places, 8 bytes each, so a proof has at least 8·t/ℓ bytes for each cell of the
    commitments it opens; a layer's own witness has, beside others, three cells for each score of its bands, which are more than half
    of the square."""
    params = profile(manifest.profile)
    cells = sum(prod(shape) for _, name in task.commitments
                for _, shape in commitment_tensors(manifest, name.base, window_of(manifest, name)))
    if task.kind == "layer":
        steps = manifest.windows()[task.window].count
        cells += steps * manifest.part_sequences * manifest.model.heads * manifest.sequence_length**2
    least = 8 * params.queries * cells // params.ell
    if proof_bytes < least:
        raise VerificationError("truncated", str(task), f"at least {least} bytes for {cells} cells", str(proof_bytes))


def require_witness_size(graph: Graph, params: Params, where: str, proof_bytes: int) -> None:
    """VerificationError if the proof is too short for the witness of its graph, before lookups are cut into trees: the witness can
    be far larger than every commitment that is named (the logits of a narrow model), and work grows with its trees."""
    cells = sum(prod(tensor.shape) for tensor, op in zip(graph.tensors, graph.ops, strict=True)
                if isinstance(op, CommittedOp) and op.commitment == WITNESS)
    least = 8 * params.queries * cells // params.ell
    if proof_bytes < least:
        raise VerificationError("truncated", where, f"at least {least} bytes for a witness of {cells} cells", str(proof_bytes))


def verify_task(
    manifest: RunManifest, task: Task, roots: Mapping[str, bytes], ids: Mapping[str, str], evidence: Evidence
) -> tuple[Soundness, dict[str, IntArray]]:
    """Soundness and published values of an accepted task; VerificationError otherwise."""
    params = profile(manifest.profile)
    require_size(manifest, task, len(evidence.proof))
    try:
        graph = task.graph(manifest)
        require_witness_size(graph, params, str(task), len(evidence.proof))
        shape = TaskShape(graph, params.field)
        _ = shape.plans
    except RelationError as error:  # exponents or widths that no honest run has, or too many lookup trees
        raise VerificationError("relation", str(task), "a relation that this protocol proves", str(error)) from error
    published = published_values(graph, evidence.content)
    expected = statement_content(manifest, task, graph.digest(), ids, published)
    if expected != evidence.content:
        raise VerificationError("statement", str(task), *first_difference(expected, evidence.content))
    if len(evidence.proof) > MAX_PROOF_BYTES:
        raise VerificationError("size", str(task), f"at most {MAX_PROOF_BYTES} bytes", str(len(evidence.proof)))
    committed = []
    for role, name in task.commitments:
        layout, root = commitment_layout(manifest, name), roots[str(name)]
        if layout.identity(root) != ids[str(name)]:
            raise VerificationError("commitment-id", str(name), ids[str(name)], layout.identity(root))
        committed.append(Committed(role, layout, root))
    channel = VerifyingChannel(params.field, evidence.proof)
    run_task(channel, shape, evidence.content, committed, params, published, None)
    channel.finish()
    layouts = [*(c.layout for c in committed), shape.witness_layout(params)]
    soundness = task_soundness(params, shape, layouts, max_blinding(manifest, params))
    require_bits(soundness, 0, str(task))
    return soundness, published


def first_difference(expected: bytes, actual: bytes) -> tuple[str, str]:
    """The first differing key of two statements, printable."""
    try:
        ours, theirs = json.loads(expected.decode()), json.loads(actual.decode())
        for key in sorted(set(ours) | set(theirs)):
            if ours.get(key) != theirs.get(key):
                name = printable(key)
                return f"{name} = {printable(ours.get(key))}", f"{name} = {printable(theirs.get(key))}"
    except (ValueError, AttributeError, TypeError, RecursionError):
        pass
    return "the canonical statement", "other bytes"


def printable(value: object) -> str:
    """The beginning of a value from the record on one line of ASCII: an error message must never fail to print."""
    try:
        return one_line(str(value)[:120])
    except RecursionError:
        return type(value).__name__


def one_line(text: str) -> str:
    """The text without anything that a terminal obeys."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)


def typed(value: Any, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    """`value` if it is an object that has these keys with these types."""
    if not isinstance(value, dict) or not all(key in value and (kind is object or type(value[key]) is kind) for key, kind in kinds.items()):
        raise VerificationError("malformed", where, f"an object with {sorted(kinds)}", printable(value))
    return value


@contextlib.contextmanager
def fail_closed(where: str) -> Iterator[None]:
    """Evidence that cannot be processed is no evidence: any exception but lack of memory becomes a rejection."""
    try:
        yield
    except (VerificationError, MemoryError):
        raise
    except Exception as error:
        raise VerificationError("malformed", where, "evidence of this protocol", f"{type(error).__name__}: {printable(error)}") from error
