"""What the text of a PTX module says: its kernels with their parameters and statements, its variables. Called by ptx.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class UnknownPtx(ValueError):
    """What this translator does not know."""


@dataclass
class Variable:
    """Of a module or of a kernel: `size` bytes, 0 if a launch says how many."""

    space: str
    name: str
    size: int
    align: int
    content: str
    at: int = 0


@dataclass
class Kernel:
    """`parameters` are (name, offset, size)."""

    name: str
    parameters: list[tuple[str, int, int]]
    body: list[str]
    registers: dict[str, str] = field(default_factory=dict)  # its C++ type
    shared: dict[str, Variable] = field(default_factory=dict)
    waits: bool = False


def read(ptx: str) -> tuple[dict[str, Variable], list[Kernel]]:
    """A module's variables by name, and its kernels."""
    text = re.sub(r"//.*", "", ptx)
    variables, kernels = dict[str, Variable](), list[Kernel]()
    entry = re.compile(r"\.(?:visible|weak)\s+\.entry\s+([\w$]+)\s*\((.*?)\)([^{;]*)\{", re.S)
    place, outside = 0, ""
    while found := entry.search(text, place):
        outside += text[place : found.start()]
        end = _end_of_block(text, found.end())
        kernels.append(Kernel(found[1], _parameters(found[2]), _statements(text[found.end() : end])))
        place = end + 1
    for part in re.sub(r"\.(version|target|address_size)\b.*", "", outside + text[place:]).split(";"):
        if made := variable(part.strip()):
            variables[made.name] = made
        elif part.strip():
            raise UnknownPtx(part.strip()[:200])
    return variables, kernels


def size_of(kind: str) -> int:
    """Bytes of a type."""
    return int(re.sub(r"\D", "", kind)) // 8


def _end_of_block(text: str, place: int) -> int:
    depth = 1
    for found in re.finditer(r"[{}]", text[place:]):
        depth += 1 if found[0] == "{" else -1
        if not depth:
            return place + found.start()
    raise UnknownPtx("a body without an end")


def _statements(text: str) -> list[str]:
    """Statements of a body; braces and labels are some of their own."""
    return [part.strip() for part in re.split(r"([{}]|^\$?\w+:)|;", text, flags=re.M) if part and part.strip()]


_VARIABLE = re.compile(
    r"(?:\.(?:visible|extern|weak)\s+)*\.(global|const|shared)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(\[\d*\])?\s*(?:=\s*\{?([^}]*)\}?)?$")


def variable(text: str) -> Variable | None:
    """What a statement declares, if it does."""
    if not (found := _VARIABLE.match(text)):
        return None
    space, align, kind, name, count, content = found.groups()
    width = size_of(kind)
    data = b"".join((int(word, 0) % (1 << 8 * width)).to_bytes(width, "little") for word in (content or "").split(",") if word.strip())
    return Variable(space, name, width * (int(count[1:-1] or 0) if count else 1), int(align or width), ", ".join(map(str, data)))


def _parameters(text: str) -> list[tuple[str, int, int]]:
    out, at = [], 0
    for one in filter(None, map(str.strip, text.split(","))):
        found = re.match(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)(?:\s+\.ptr\b.*)?\s+([\w$]+)(?:\[(\d+)\])?$", one)
        if not found:
            raise UnknownPtx(one)
        size, align = size_of(found[2]) * int(found[4] or 1), int(found[1] or size_of(found[2]))
        at = -(-at // align) * align
        out.append((found[3], at, size))
        at += size
    return out


def lay_out(variables: dict[str, Variable]) -> int:
    """Places one behind the other, those of a size that a launch says last; bytes in all."""
    at = 0
    for v in sorted(variables.values(), key=lambda v: v.size == 0):
        at = -(-at // v.align) * v.align
        v.at, at = at, at + v.size
    return at
