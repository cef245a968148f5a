"""Whole proofs of the tiny relation (tests/support/tiny.py), honest ones, changed ones and those of a lying prover.

A change in transit is written as edits [offset, bytes removed, bytes inserted] of an honest proof; the reasons follow from the
place of the change (tests/campaigns/mutations.py says how).
"""

import base64
from typing import Any

from tests.campaigns.mutations import HASHES, bytes_of, words_of
from tests.campaigns.vectors.suite import P, Suite
from tests.support.evil import Lie
from tests.support.stage import PARAMS
from tests.support.tiny import Tiny, tiny_graph

SIZES = [[3, 3, 5], [2, 1, 2], [4, 2, 3]]  # (out, rows, inner) of the graph


def statement_of(tiny: Tiny, sizes: list[int], proof: bytes) -> dict[str, Any]:
    commitments = []
    for role, data in tiny.committed_data:
        tensors = [[name, list(a.shape)] for (r, name), a in tiny.inputs.items() if r == role]
        commitments.append([role, tensors, data.root.hex()])
    return {
        "sizes": sizes,
        "statement": tiny.statement.decode(),
        "published": {n: v.tolist() for n, v in tiny.published.items()},
        "commitments": commitments,
        "proof": base64.b64encode(proof).decode(),
    }


def plus(at: int, amount: int) -> Any:
    """A lie: `amount` is added to word `at` of the message."""

    def change(message: bytes) -> bytes:
        words = words_of(message)
        words[at] = (words[at] + amount) % P
        return bytes_of(words)

    return change


def suites() -> list[Suite]:
    s = Suite("proof")
    for number, sizes in enumerate(SIZES):
        tiny = Tiny(graph=tiny_graph(*sizes), number=number)
        s.ok("proof.verify", "accepted", **statement_of(tiny, sizes, bytes(tiny.prove().proof)))
    tiny = Tiny(graph=tiny_graph(*SIZES[0]), number=0)
    channel, given, honest = tiny.prove(), s.vectors[0]["id"], s.vectors[0]["input"]
    proof, places = bytes(channel.proof), {tag: (at, size) for tag, at, size in reversed(channel.log)}
    early = places["columns/base"][0]
    edits: list[tuple[str, list[Any]]] = []
    for tag, (at, _) in places.items():
        word = int.from_bytes(proof[at : at + 8], "big")
        edits.append(("opening-relation" if at < early else "merkle-root", [at, 8, ((word + 1) % P).to_bytes(8, "big").hex()]))
        if not tag.startswith(HASHES):
            edits.append(("non-canonical", [at, 8, (P + word % 2**31).to_bytes(8, "big").hex()]))
    edits += [("truncated", [n, len(proof) - n, ""]) for n in (0, 31, places["opening/v1"][0] + 8, len(proof) - 1)]
    edits += [("trailing", [len(proof), 0, extra]) for extra in ("00", proof[-32:].hex())]
    edits += [
        ("opening-relation", [places["tree/round"][0], 8, ""]),
        ("merkle-root", [places["salts/base"][0], 32, ""]),
        ("truncated", [places["salts/witness"][0], 32, ""]),
    ]
    for reason, edit in edits:
        s.bad("proof.verify", reason, of=given, edits=[edit])

    def lies(reason: str, **lie: Any) -> None:
        s.bad("proof.verify", reason, of=given, proof=base64.b64encode(bytes(tiny.prove(Lie(**lie)).proof)).decode())

    lies("merkle-root", messages={"witness/root": lambda m: bytes([m[0] ^ 1]) + m[1:]})
    lies("column-check", messages={"opening/v1": lambda m: plus(2 * PARAMS.ell, 5)(plus(0, -5)(m))})
    lies("opening-relation", messages={"claim": plus(0, 1)})
    lies("opening-relation", multiplicities={tiny.shape.plans[0].tables[0]: one_more})
    other = Tiny(graph=tiny_graph(*SIZES[0]), number=5)
    for change in ({"statement": honest["statement"] + " "}, {"statement": other.statement.decode()}, {"published": {"squares": [0, 0]}}):
        s.bad("proof.verify", "opening-relation", of=given, **change)
    for published in ({"squares": [0]}, {}, {"others": honest["published"]["squares"]}):
        s.bad("proof.verify", "published-shape", of=given, published=published)
    s.bad("proof.verify", "merkle-root", of=given, commitments=[[role, t, "00" * 32] for role, t, _ in honest["commitments"]])
    return [s]


def one_more(counts: Any) -> Any:
    counts[0] += 1
    return counts
