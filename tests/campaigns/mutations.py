"""Structured mutations of a toy proof, and the one reason for which each must be rejected.

A field is a message tag, or one of the things that the verifier holds beside the proof: the statement, a commitment's root, a
published value. `Target.mutate` changes a finished proof (in transit); `Target.forge` changes a message before the prover
absorbs it, so that everything after it is consistent with the change. The expected reason is computed from the bytes that
differ, not from the operation: what comes before the relation check spoils the relation, what comes after it a Merkle root.

Called by tests/attacks/test_mutations.py (a sample, and with `-m attacks` 1,000 of each field).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.schedule.opening import tail_code
from tests.support.evil import Lie
from tests.support.stage import PARAMS, verify
from tests.support.tiny import Tiny

P = GOLDILOCKS.p
HASHES = ("witness/root", "salts/", "siblings/")  # messages that are not field elements
LATE = ("columns/", "salts/", "siblings/")
TRANSIT = ("plus", "minus", "bit", "swap", "exchange", "zero", "blank", "drop", "duplicate", "splice", "tail", "x+p", "cut")
FORGED = ("plus", "minus", "bit", "swap", "zero", "blank", "splice")
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Found:
    """One mutation that changed something: what was done, what had to come of it, what did."""

    field: str
    operation: str
    expected: str
    actual: str


def words_of(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 8], "big") for i in range(0, len(data), 8)]


def bytes_of(words: list[int]) -> bytes:
    return b"".join(w.to_bytes(8, "big") for w in words)


class Target:
    """An honest proof, two others to splice from, and the layout of its messages."""

    def __init__(self) -> None:
        self.tiny, self.rng = Tiny(), np.random.default_rng(20)
        channel = self.tiny.prove()
        self.proof, self.log = bytes(channel.proof), list(channel.log)
        self.judge = self.tiny.resumed(self.proof)
        self.other = Tiny(number=2)
        self.others = [bytes(self.tiny.prove(label="another attempt").proof), bytes(self.other.prove().proof)]
        self.places: dict[str, list[tuple[int, int]]] = {}
        for tag, offset, size in self.log:
            self.places.setdefault(tag, []).append((offset, size))
        self.early = next(offset for tag, offset, _ in self.log if tag.startswith("columns/"))
        witness = self.tiny.shape.witness_layout(PARAMS)
        layouts = [c.layout for c in self.tiny.committed] + [witness]
        short = tail_code(GOLDILOCKS, witness.code, 2 * max(x.variables for x in layouts) + len(layouts))
        self.codes = {"opening/v1": witness.code, "opening/v2": short}

    @property
    def fields(self) -> list[str]:
        return [*self.places, "statement", "published", *(f"root/{c.role}" for c in self.tiny.committed)]

    def pick(self, n: int) -> int:
        return int(self.rng.integers(n))

    # what is done --------------------------------------------------------------------------------

    def change(self, operation: str, tag: str, message: bytes, other: bytes) -> bytes:
        """A message after an operation that keeps its size."""
        words = words_of(message)
        if operation in ("splice", "blank"):
            return other + message[len(other) :] if operation == "splice" else bytes(len(message))  # other proofs may be shorter
        i, j, modulus = self.pick(len(words)), self.pick(len(words)), 1 << 64 if tag.startswith(HASHES) else P
        if operation in ("plus", "minus"):
            words[i] = (words[i] + (1 if operation == "plus" else -1)) % modulus
        elif operation == "bit":
            words[i] ^= 1 << self.pick(64)
        elif operation == "swap":
            words[i], words[j] = words[j], words[i]
        elif operation == "zero":
            words[i] = 0
        elif operation == "x+p":  # the same residue in other bytes where 64 bits have room for it, else another that is not canonical
            words[i] = P + words[i] % ((1 << 64) - P)
        return bytes_of(words)

    def mutate(self, tag: str, operation: str) -> bytes:
        """The proof with one message changed on its way."""
        places = self.places[tag]
        offset, size = places[self.pick(len(places))]
        proof, message, other = self.proof, self.proof[offset : offset + size], self.others[self.pick(2)]
        before, after = proof[:offset], proof[offset + size :]
        unit = 32 if tag.startswith(HASHES) else 8
        at = unit * self.pick(size // unit)
        if operation == "cut":
            return before + message[:at]
        if operation == "drop":
            return before + message[:at] + message[at + unit :] + after
        if operation == "duplicate":
            return before + message[: at + unit] + message[at:] + after
        if operation == "tail":
            return before + other[offset:] if offset else proof
        if operation == "exchange":
            there, length = places[self.pick(len(places))]
            if length != size or there == offset:
                return proof
            out = bytearray(proof)
            out[offset : offset + size], out[there : there + size] = proof[there : there + size], message
            return bytes(out)
        return before + self.change(operation, tag, message, other[offset : offset + size]) + after

    # what must come of it ------------------------------------------------------------------------

    def expected(self, proof: bytes) -> str:
        """The reason that the first difference from the honest proof leads to."""
        if proof == self.proof:
            return ACCEPTED
        if proof[: self.early] != self.proof[: self.early]:
            words = words_of(proof[32 : self.early])
            if any(w >= P for w in words):
                return "non-canonical"
            if len(proof) < self.early:
                return "truncated"
            return "merkle-root" if self._same_messages(proof) else "opening-relation"
        for tag, offset, size in self.log:  # one commitment after another: columns, salts, siblings, then the root
            if not tag.startswith("columns/"):
                continue
            role = tag.split("/")[1]
            stop = sum(self.places[f"siblings/{role}"][0])
            part = proof[offset:stop]
            if part == self.proof[offset:stop]:
                continue
            if len(part) >= size and any(w >= P for w in words_of(part[:size])):
                return "non-canonical"
            return "truncated" if len(proof) < stop else "merkle-root"
        return "trailing"

    def _same_messages(self, proof: bytes) -> bool:
        """Only v1 or v2 differ, by a multiple of X^ℓ − 1: the relation holds, but other positions are drawn."""
        out = bytearray(proof[: self.early])
        for tag, code in self.codes.items():
            offset, size = self.places[tag][0]
            mine, honest = (GOLDILOCKS.kfrom_bytes(data[offset : offset + size]) for data in (proof, self.proof))
            if not np.array_equal(code.message_of(mine), code.message_of(honest)):
                return False
            out[offset : offset + size] = self.proof[offset : offset + size]
        return bytes(out) == self.proof[: self.early]

    # both ----------------------------------------------------------------------------------------

    def transit(self, field: str, operation: str) -> Found | None:
        """None if the operation changed nothing."""
        if field not in self.places:
            return self.beside(field, operation)
        proof = self.mutate(field, operation)
        wanted = self.expected(proof)
        return None if wanted == ACCEPTED else Found(field, operation, wanted, self.judge(proof))

    def forge(self, tag: str, operation: str) -> Found | None:
        """A prover that changes the first message of a tag and goes on."""
        other, seen = self.others[self.pick(2)], list[bool]()
        offset, size = self.places[tag][0]

        def lie(message: bytes) -> bytes:
            changed = self.change(operation, tag, message, other[offset : offset + size])
            if not tag.startswith(HASHES):
                changed = bytes_of([w % P for w in words_of(changed)])
            seen.append(changed != message)
            return changed

        proof = bytes(self.tiny.prove(Lie(messages={tag: lie})).proof)
        if seen != [True]:
            return None
        wanted = "merkle-root" if tag == "witness/root" or tag.startswith(LATE) else "opening-relation"
        if tag in self.codes and self._kernel(tag, proof):
            wanted = "column-check"
        return Found(tag, f"forged {operation}", wanted, self.tiny.reason(proof))

    def _kernel(self, tag: str, proof: bytes) -> bool:
        (offset, size), code = self.places[tag][0], self.codes[tag]
        mine, honest = (GOLDILOCKS.kfrom_bytes(data[offset : offset + size]) for data in (proof, self.proof))
        return np.array_equal(code.message_of(mine), code.message_of(honest))

    def kernel(self, tag: str) -> Found:
        """c·(X^ℓ − 1) added to v1 or v2 by the prover: only the columns can tell."""
        code, c, at = self.codes[tag], 1 + self.pick(1 << 62), self.pick(2 * self.codes[tag].blinding)

        def lie(message: bytes) -> bytes:
            words = words_of(message)
            words[at] = (words[at] - c) % P
            words[at + 2 * code.ell] = (words[at + 2 * code.ell] + c) % P
            return bytes_of(words)

        proof = bytes(self.tiny.prove(Lie(messages={tag: lie})).proof)
        return Found(tag, "forged multiple of X^l - 1", "column-check", self.tiny.reason(proof))

    def beside(self, field: str, operation: str) -> Found | None:
        """Statement, published values and roots, which the verifier has from elsewhere."""
        tiny, other = self.tiny, self.other
        statement, published, committed = tiny.statement, dict(tiny.published), list(tiny.committed)
        wanted = "opening-relation"
        if field == "statement":
            statement = self._text(operation, statement, other.statement)
        elif field == "published":
            name = next(iter(published))
            values = self._array(operation, published[name], other.published[name])
            published[name], wanted = values, "opening-relation" if values.shape == published[name].shape else "published-shape"
        else:
            i = next(i for i, c in enumerate(committed) if f"root/{c.role}" == field)
            root = self.change(operation, "witness/root", committed[i].root, other.committed[i].root)
            committed[i], wanted = replace(committed[i], root=root), "merkle-root"
        same = statement == tiny.statement and all(np.array_equal(published[n], a) for n, a in tiny.published.items())
        if same and [c.root for c in committed] == [c.root for c in tiny.committed]:
            return None
        try:
            verify(tiny.shape, statement, committed, published, self.proof)
        except VerificationError as error:
            return Found(field, operation, wanted, error.reason)
        return Found(field, operation, wanted, ACCEPTED)

    def _text(self, operation: str, text: bytes, other: bytes) -> bytes:
        i, j = sorted((self.pick(len(text)), self.pick(len(text))))
        one, before, after = text[i : i + 1], text[:i], text[i + 1 :]
        if operation == "swap" and i < j:
            return before + text[j : j + 1] + text[i + 1 : j] + one + text[j + 1 :]
        middle = {"plus": bytes([(text[i] + 1) % 256]), "minus": bytes([(text[i] - 1) % 256]), "bit": bytes([text[i] ^ 1 << self.pick(8)]),
                  "zero": b"\0", "drop": b"", "duplicate": one + one}
        whole = {"cut": before, "splice": other, "tail": before + other[i:]}
        return whole.get(operation, before + middle.get(operation, one) + after)

    def _array(self, operation: str, values: np.ndarray, other: np.ndarray) -> np.ndarray:
        i, j, out = self.pick(len(values)), self.pick(len(values)), values.copy()
        if operation in ("plus", "minus"):
            out[i] += 1 if operation == "plus" else -1
        elif operation == "bit":
            out[i] ^= 1 << self.pick(60)
        elif operation == "swap":
            out[i], out[j] = values[j], values[i]
        elif operation == "zero":
            out[i] = 0
        elif operation in ("drop", "cut"):
            out = np.delete(out, i)
        elif operation == "duplicate":
            out = np.insert(out, i, out[i])
        elif operation == "splice":
            out = other.copy()
        return out

    def run(self, field: str, count: int, forged: int) -> Iterator[Found]:
        """`count` mutations of one field that changed something, `forged` of them by the prover."""
        done, turn = 0, 0
        while done < count:
            turn += 1
            if field in self.codes and done < 3:
                found: Found | None = self.kernel(field)
            elif done < forged and field in self.places:
                found = self.forge(field, FORGED[turn % len(FORGED)])
            else:
                found = self.transit(field, TRANSIT[turn % len(TRANSIT)])
            if found:
                done += 1
                yield found
