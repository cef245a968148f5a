"""PTX as C++: each kernel becomes a function that one thread runs, on device.h.

PTX is the language of NVIDIA's manual "Parallel Thread Execution ISA", in which NVRTC hands a module to the driver. Registers become
unsigned variables of their width; what an instruction takes them for is in its types. Known are the instructions on integers and
predicates that NVRTC makes of the prover's kernels and of CuPy's: another one is an error, never skipped. Called by tests/support/card.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.support.card.ptx_text import Kernel, UnknownPtx, lay_out, read, size_of, variable

TYPES = {f"b{n}": f"u{n}" for n in (8, 16, 32, 64)} | {f"{sign}{n}": f"{sign}{n}" for sign in "us" for n in (8, 16, 32, 64)}
SPECIAL = {"%tid": "tid", "%ctaid": "ctaid", "%ntid": "launch->block", "%nctaid": "launch->grid"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
SPACES = ("global", "shared", "const", "param")
# how memory is seen by others, and where it is cached: here every access is done before the next one begins
WITHOUT_EFFECT = {"volatile", "relaxed", "acq_rel", "gpu", "cta", "nc", "uni"}


class Translator:
    """One module."""

    def __init__(self, ptx: str) -> None:
        self.variables, self.kernels = read(ptx)

    def source(self) -> str:
        out, ranges = ['#include "device.h"\n'], ""
        for v in self.variables.values():
            if v.space != "shared":
                out.append(f"alignas({max(16, v.align)}) static u8 v_{v.name}[{v.size}] = {{{v.content}}};\n")
                ranges += f"{{(u64)v_{v.name}, (u64)v_{v.name} + {v.size}}}, "
        out.append(f"const Range module_variables[] = {{{ranges}{{0, 0}}}};\n")
        return "".join(out + [self._kernel(k) for k in self.kernels])

    def _kernel(self, kernel: Kernel) -> str:
        self.now = kernel
        kernel.shared = {v.name: v for v in self.variables.values() if v.space == "shared"}
        lines = []
        for text in kernel.body:
            try:
                lines.append(self._statement(text))
            except (ValueError, KeyError, IndexError) as error:
                raise UnknownPtx(f"{kernel.name}: {text}") from error
        size = lay_out(kernel.shared)
        places = "".join(f"enum {{ shared_{v.name} = {v.at} }};\n" for v in kernel.shared.values())
        parameters = "".join(f"{at}, {size}, " for _, at, size in kernel.parameters)
        body = "\n".join(_tallied(kernel.body, lines))
        return (
            f"namespace of_{kernel.name} {{\n{places}static void entry(const char* parameters) {{\nu32 carry = 0;\n{body}\n}}\n}}\n"
            f"EXPORT const u32 card_{kernel.name}_parameters[] = {{{parameters}0, 0}};\n"
            f"EXPORT int card_{kernel.name}_run(const Launch* given) {{\n"
            f"    return run_launch(given, of_{kernel.name}::entry, {size}, {str(kernel.waits).lower()});\n}}\n")

    # ---- statements and operands -----------------------------------------------------------------------------------------

    def _statement(self, text: str) -> str:
        if text in ("{", "}"):
            return text
        if text.endswith(":"):
            return f"{_label(text[:-1])}:;"
        if text.startswith(".reg"):
            return self._registers(text)
        if text.startswith(".pragma"):
            return ""
        if (made := variable(text)) and made.space == "shared":
            self.now.shared[made.name] = made
            return ""
        if guard := re.match(r"@(!?)(%?\w+)\s+(.*)", text, re.S):
            return f"if ({guard[1]}{_name(guard[2])}) {{ {self._instruction(guard[3])} }}"
        return self._instruction(text)

    def _registers(self, text: str) -> str:
        _, kind, names = text.split(None, 2)
        c = "bool" if kind == ".pred" else TYPES[kind[1:].replace("f", "b")]
        made: list[str] = []
        for one in map(str.strip, names.split(",")):
            many = re.match(r"(%\w+)<(\d+)>", one)
            made += [f"{many[1]}{k}" for k in range(int(many[2]))] if many else [one]
        self.now.registers |= dict.fromkeys(made, c)
        return f"{c} {', '.join(map(_name, made))};"

    def _value(self, text: str, c: str) -> str:
        """An operand as a value of a C++ type."""
        if text in self.now.registers:
            return f"({c}){_name(text)}"
        if re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|\d+)U?", text):
            return f"({c}){int(text.rstrip('U'), 0) % (1 << 64)}ull"
        if text.startswith("%"):
            base, _, axis = text.partition(".")
            return f"({c}){SPECIAL[base]}.{axis}"
        return f"({c}){self._symbol(text)}"

    def _symbol(self, text: str) -> str:
        """Its address: of shared memory and of parameters, the place there."""
        if text in self.now.shared:
            return f"shared_{text}"
        if text in self.variables:
            return f"(u64)v_{text}"
        places = {name: at for name, at, _ in self.now.parameters}
        if text not in places:
            raise UnknownPtx(text)
        return str(places[text])

    def _address(self, text: str) -> str:
        found = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if not found:
            raise UnknownPtx(text)
        return f"({self._value(found[1], 'u64')} + (u64){int(found[2] or 0) % (1 << 64)}ull)"

    def _set(self, target: str, value: str, c: str = "") -> str:
        """A value to a register; a signed one is widened as such."""
        return f"{_name(target)} = ({self.now.registers[target]}){f'({c})' if c else ''}({value});"

    # ---- instructions ----------------------------------------------------------------------------------------------------

    def _instruction(self, text: str) -> str:
        name, *rest = text.split(None, 1)
        head, *words = name.split(".")
        made: Callable[[list[str], list[str]], str] | None = getattr(self, f"_do_{head}", None)
        if made is None:
            raise UnknownPtx(name)
        given = [x.strip() for x in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,]+", "".join(rest))]
        return made([w for w in words if w not in WITHOUT_EFFECT], [x for x in given if x])

    def _binary(self, sign: str, words: list[str], o: list[str]) -> str:
        [kind] = words
        c = "bool" if kind == "pred" else TYPES[kind].replace("s", "u")
        return self._set(o[0], f"{self._value(o[1], c)} {sign} {self._value(o[2], c)}", c if kind == "pred" else TYPES[kind])

    def _carried(self, value: str, w: list[str], target: str, takes: bool) -> str:
        """A sum or a difference of 128 bits, with the carry of the instruction before if this one takes it, and its own if it gives one."""
        c = TYPES[w[-1]].replace("s", "u")
        kept = f" carry = sum >> {8 * size_of(c)} & 1;" if "cc" in w else ""
        return f"{{ const u128 sum = {value.format('carry' if takes else '0')}; {_name(target)} = ({c})sum;{kept} }}"

    def _do_add(self, w: list[str], o: list[str]) -> str:
        return self._do_addc(w, o, False) if "cc" in w else self._binary("+", w, o)

    def _do_addc(self, w: list[str], o: list[str], takes: bool = True) -> str:
        c = TYPES[w[-1]].replace("s", "u")
        return self._carried(f"(u128){self._value(o[1], c)} + {self._value(o[2], c)} + {{}}", w, o[0], takes)

    def _do_sub(self, w: list[str], o: list[str]) -> str:
        return self._do_subc(w, o, False) if "cc" in w else self._binary("-", w, o)

    def _do_subc(self, w: list[str], o: list[str], takes: bool = True) -> str:
        c = TYPES[w[-1]].replace("s", "u")
        return self._carried(f"(u128){self._value(o[1], c)} - {self._value(o[2], c)} - {{}}", w, o[0], takes)

    def _do_and(self, w: list[str], o: list[str]) -> str:
        return self._binary("&", w, o)

    def _do_or(self, w: list[str], o: list[str]) -> str:
        return self._binary("|", w, o)

    def _do_xor(self, w: list[str], o: list[str]) -> str:
        return self._binary("^", w, o)

    def _call(self, function: str, w: list[str], o: list[str]) -> str:
        [kind] = w
        c = TYPES[kind]
        return self._set(o[0], f"{function}({', '.join(self._value(x, c) for x in o[1:])})", c)

    def _do_div(self, w: list[str], o: list[str]) -> str:
        return self._call("quotient", w, o)

    def _do_rem(self, w: list[str], o: list[str]) -> str:
        return self._call("rest", w, o)

    def _do_min(self, w: list[str], o: list[str]) -> str:
        return self._call("smaller", w, o)

    def _do_max(self, w: list[str], o: list[str]) -> str:
        return self._call("larger", w, o)

    def _do_brev(self, w: list[str], o: list[str]) -> str:
        return self._call("reversed", w, o)

    def _do_bfi(self, w: list[str], o: list[str]) -> str:
        c = TYPES[w[0]]
        given = [self._value(x, c) for x in o[1:3]] + [self._value(x, "u32") for x in o[3:]]
        return self._set(o[0], f"inserted({', '.join(given)})")

    def _do_popc(self, w: list[str], o: list[str]) -> str:
        return self._set(o[0], f"__builtin_popcountll({self._value(o[1], TYPES[w[0]])})")

    def _do_clz(self, w: list[str], o: list[str]) -> str:
        return self._call("leading_zeros", w, o)

    def _do_neg(self, w: list[str], o: list[str]) -> str:
        return self._set(o[0], f"0 - {self._value(o[1], TYPES[w[0]].replace('s', 'u'))}", TYPES[w[0]])

    def _do_not(self, w: list[str], o: list[str]) -> str:
        return self._set(o[0], f"!{self._value(o[1], 'bool')}" if w == ["pred"] else f"~{self._value(o[1], TYPES[w[0]])}")

    def _product(self, w: list[str], o: list[str]) -> tuple[str, str]:
        """The value and its type."""
        how, kind = w
        c = TYPES[kind]
        if how == "hi":
            return f"high({self._value(o[1], c)}, {self._value(o[2], c)})", c
        wide = {"lo": c, "wide": f"{c[0]}{2 * int(c[1:])}"}[how]
        return f"({wide})((u64)({wide}){self._value(o[1], c)} * (u64)({wide}){self._value(o[2], c)})", wide

    def _do_mul(self, w: list[str], o: list[str]) -> str:
        return self._set(o[0], *self._product(w, o))

    def _do_madc(self, w: list[str], o: list[str], takes: bool = True) -> str:
        how, *_, kind = w
        if kind != "u32":
            raise UnknownPtx(kind)
        product = f"((u64){self._value(o[1], 'u32')} * {self._value(o[2], 'u32')}"
        return self._carried(f"(u128)(u32){product} >> {32 * ('lo', 'hi').index(how)}) + {self._value(o[3], 'u32')} + {{}}", w, o[0], takes)

    def _do_mad(self, w: list[str], o: list[str]) -> str:
        if "cc" in w:
            return self._do_madc(w, o, False)
        value, c = self._product(w, o)
        return self._set(o[0], f"(u64){value} + (u64){self._value(o[3], c)}", c)

    def _do_shl(self, w: list[str], o: list[str]) -> str:
        return self._set(o[0], f"shift_left({self._value(o[1], TYPES[w[0]])}, {self._value(o[2], 'u32')})")

    def _do_shr(self, w: list[str], o: list[str]) -> str:
        c = TYPES[w[0]]
        return self._set(o[0], f"shift_right({self._value(o[1], c)}, {self._value(o[2], 'u32')})", c)

    def _do_shf(self, w: list[str], o: list[str]) -> str:
        if w != ["l", "wrap", "b32"]:
            raise UnknownPtx(".".join(w))
        return self._set(o[0], f"funnel_left({', '.join(self._value(x, 'u32') for x in o[1:])})")

    def _do_selp(self, w: list[str], o: list[str]) -> str:
        c = TYPES[w[0]]
        return self._set(o[0], f"{self._value(o[3], 'bool')} ? {self._value(o[1], c)} : {self._value(o[2], c)}", c)

    def _do_setp(self, w: list[str], o: list[str]) -> str:
        how, kind = w
        return self._set(o[0], f"{self._value(o[1], TYPES[kind])} {COMPARISONS[how]} {self._value(o[2], TYPES[kind])}")

    def _do_cvt(self, w: list[str], o: list[str]) -> str:
        to, source = w
        return self._set(o[0], f"({TYPES[to]}){self._value(o[1], TYPES[source])}", TYPES[to])

    def _do_mov(self, w: list[str], o: list[str]) -> str:
        [kind] = w
        c = "bool" if kind == "pred" else TYPES[kind]
        return self._set(o[0], self._value(o[1], c))

    # ---- memory ----------------------------------------------------------------------------------------------------------

    def _place(self, w: list[str], address: str, size: int) -> str:
        *space, _ = w
        if space == ["param"]:
            return f"(parameters + {self._address(address)})"
        if space and space[0] not in SPACES or len(space) > 1:
            raise UnknownPtx(".".join(w))
        return f"{'in_' + space[0] if space else 'anywhere'}({self._address(address)}, {size})"

    def _do_ld(self, w: list[str], o: list[str]) -> str:
        c = TYPES[w[-1]]
        return self._set(o[0], f"get<{c}>({self._place(w, o[1], size_of(c))})", c)

    def _do_st(self, w: list[str], o: list[str]) -> str:
        c = TYPES[w[-1]]
        return f"put<{c}>({self._place(w, o[0], size_of(c))}, {self._value(o[1], c)});"

    def _do_atom(self, w: list[str], o: list[str]) -> str:
        *space, how, kind = w
        c = TYPES[kind]
        new = {"add": "before + {0}", "cas": "before == {0} ? {1} : before"}[how].format(*(self._value(x, c) for x in o[2:]))
        at = self._place([*space, kind], o[1], size_of(c))
        return f"{{ char* at = {at}; const {c} before = get<{c}>(at); put<{c}>(at, ({c})({new})); {self._set(o[0], 'before', c)} }}"

    def _do_cvta(self, w: list[str], o: list[str]) -> str:
        if "shared" in w:
            raise UnknownPtx(".".join(w))
        return self._set(o[0], self._value(o[1], "u64"))  # addresses elsewhere are the generic ones

    # ---- control ---------------------------------------------------------------------------------------------------------

    def _do_bra(self, _: list[str], o: list[str]) -> str:
        return f"goto {_label(o[0])};"

    def _do_ret(self, _: list[str], __: list[str]) -> str:
        return "return;"

    def _do_bar(self, w: list[str], o: list[str]) -> str:
        if (w, o) != (["sync"], ["0"]):
            raise UnknownPtx(f"bar {w} {o}")
        self.now.waits = True
        return "barrier();"

    def _do_membar(self, _: list[str], __: list[str]) -> str:
        return ""


_MOVES = re.compile(r"(?:@!?%?\w+\s+)?(?:ld|st|atom)\.(?:volatile\.|nc\.)*(?:global\.)?(?:\w+\.)*?[bus](\d+)\s")
_ENDS = re.compile(r"(?:@!?%?\w+\s+)?(?:bra|ret|bar)\b")


def _tallied(body: list[str], lines: list[str]) -> list[str]:
    """With the number of instructions, and of bytes that they move to and from global memory, at the beginning of each piece that is
    executed from its beginning to its end."""
    out, piece, instructions, moved = list[str](), list[str](), 0, 0

    def close() -> None:
        nonlocal piece, instructions, moved
        out.extend([f"TALLY({instructions}, {moved});"] * (instructions > 0) + piece)
        piece, instructions, moved = [], 0, 0

    for text, line in zip(body, lines, strict=True):
        if text.endswith(":") or text in ("{", "}"):
            close()
            out.append(line)
            continue
        piece.append(line)
        if not text.startswith("."):
            instructions += 1
            found = None if re.match(r"\S*\s?\S*\.(param|shared|const)\b", text) else _MOVES.match(text)
            moved += int(found[1]) // 8 if found else 0
        if _ENDS.match(text):
            close()
    close()
    return out


def _name(register: str) -> str:
    return "r_" + register.lstrip("%")


def _label(text: str) -> str:
    return "L_" + text.replace("$", "_").strip()
