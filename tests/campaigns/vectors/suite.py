"""A suite of vectors under construction, and its file: one vector a line."""

import json
from dataclasses import dataclass, field
from typing import Any

P = 2**64 - 2**32 + 1
TOP = 2**64 - 1


@dataclass
class Suite:
    """`ok` adds a vector with its output, `bad` one with the reason of its rejection."""

    name: str
    vectors: list[dict[str, Any]] = field(default_factory=list)

    def ok(self, op: str, output: Any, **values: Any) -> None:
        self._add(op, values, {"output": output})

    def bad(self, op: str, reason: str, **values: Any) -> None:
        self._add(op, values, {"reason": reason})

    def _add(self, op: str, values: dict[str, Any], found: dict[str, Any]) -> None:
        self.vectors.append({"id": f"{self.name}/{len(self.vectors):03}", "op": op, "input": values} | found)

    def text(self) -> str:
        lines = ",\n".join(json.dumps(v, sort_keys=True, separators=(",", ":")) for v in self.vectors)
        return f'{{"suite":"{self.name}","version":1,"vectors":[\n{lines}\n]}}\n'


def texts(values: Any) -> Any:
    return [texts(x) for x in values] if isinstance(values, list | tuple) else str(values)


def word(*values: int) -> str:
    """Big-endian words of 8 bytes, in hexadecimal."""
    return "".join(v.to_bytes(8, "big").hex() for v in values)
