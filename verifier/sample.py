"""A sample of a run's tasks, drawn by public randomness: which ones, and how probably a bad one is among them.

    order = Fisher–Yates permutation of 0 … n−1 from the SHA-256 stream "sample/" ‖ beacon ‖ "/" ‖ manifest digest; the first k
    P(at least one of m bad tasks is drawn) = 1 − C(n−m, k) / C(n, k)

The beacon is public randomness that nobody could know when the checkpoint was signed (a later value of a beacon such as
drand); whoever chooses it freely chooses the sample. Called by verifier/run.py and verifier/report.py.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from protocol.streams import CounterStream


@dataclass(frozen=True)
class Sample:
    """`size` tasks drawn by `beacon`, at least 16 bytes in lower-case hexadecimal."""

    beacon: str
    size: int

    def __post_init__(self) -> None:
        if not re.fullmatch("(?:[0-9a-f]{2}){16,512}", self.beacon) or self.size < 1:
            raise ValueError("a sample needs at least one task, and a beacon of 32 to 1024 lower-case hexadecimal digits")

    def draw(self, manifest_digest: str, tasks: int) -> list[int]:
        """Indices of the drawn tasks, ascending."""
        order = CounterStream(f"sample/{self.beacon}/{manifest_digest}").permutation(tasks)
        return sorted(order[: self.size].tolist())

    def detection(self, tasks: int, bad: int) -> Fraction:
        """The probability that at least one of `bad` tasks is drawn."""
        return 1 - Fraction(comb(tasks - bad, min(self.size, tasks)), comb(tasks, min(self.size, tasks)))

    def text(self, tasks: int) -> str:
        """What a passed sample means, in a sentence."""
        counts = [m for m in (1, 2, 5, 10, 20, 50, 100) if m <= tasks]
        odds = ", ".join(f"{m}: {float(self.detection(tasks, m)):.4f}" for m in counts)
        return (f"a sample: {min(self.size, tasks)} of {tasks} tasks, drawn by beacon {self.beacon}. It says nothing about the "
                f"others but this: probability that it would have found at least one of m bad tasks: {odds}")
