"""The one exception by which verification fails.

`reason` is a short, stable, language-neutral word (tests and verdicts match on it), `where` names the message,
tensor or file, `expected` and `actual` are printable. Raised by protocol/ and verifier/ only.
"""

from __future__ import annotations


class VerificationError(Exception):
    """A proof, encoding or statement was rejected."""

    def __init__(self, reason: str, where: str, expected: str = "", actual: str = "") -> None:
        super().__init__(reason, where, expected, actual)
        self.reason = reason
        self.where = where
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        text = f"{self.reason} at {self.where}" if self.where else self.reason
        if self.expected or self.actual:
            text += f": expected {self.expected or '?'}, got {self.actual or '?'}"
        return text
