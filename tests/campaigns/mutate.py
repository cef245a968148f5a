"""Small wrong changes of a Python module, one at a time (mutation operators over the syntax tree).

    comparison     < ↔ <=, > ↔ >=, == ↔ !=, in ↔ not in, is ↔ is not        boolean   and ↔ or, not x → x
    arithmetic     + ↔ −, * → +, // → *, % → +, << ↔ >>, | ↔ &, ^ → |        constant  n → n + 1, True ↔ False
    condition      if c → if not c (also in expressions and comprehensions)    arguments f(a, b, …) → f(b, a, …)
    statement      raise … → pass;  a call that stands alone (require, absorb, lookup, zero, range_check, append …) → pass

Texts of error messages, annotations, docstrings, decorators, zip's `strict` and the arguments' order of commutative functions are
left alone. A mutant's key names file, function and code before
and after, so it survives changes elsewhere in the file. Called by tests/campaigns/mutants.py.
"""

import ast
import copy
from collections.abc import Iterator

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
    ast.Div: ast.Mult,
}
MESSAGE_FROM = {
    "VerificationError": 1,
    "require": 2,
    "_need": 1,
    "_fail": 0,
    "_invalid": 0,
    "RelationError": 0,
    "ValueError": 0,
    "TypeError": 0,
    "RuntimeError": 0,
    "ZeroDivisionError": 0,
    "check_equal": 4,
    "check_columns": 4,
    "parser.error": 0,
    "add_argument": 0,
    "print": 0,
}
# swapped arguments change nothing
COMMUTATIVE = {"mul", "kmul", "add", "dot", "kdot", "min", "max", "gcd", "array_equal"}


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


class _Walk:
    """Lists (parent, field, index or None, new node, function) for every possible change."""

    def __init__(self, tree: ast.Module) -> None:
        self.found: list[tuple[ast.AST, str, int | None, ast.AST, str]] = []
        self.visit_children(tree, "")

    def visit_children(self, node: ast.AST, inside: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = f"{inside}.{node.name}" if inside else node.name
        skipped = {"annotation", "returns", "decorator_list", "bases", "keywords"} if not isinstance(node, ast.Call) else set[str]()
        first_message = MESSAGE_FROM.get(name_of(node), 99) if isinstance(node, ast.Call) else 99
        for field, value in ast.iter_fields(node):
            if field in skipped or (isinstance(node, ast.AnnAssign) and field in ("annotation", "target")):
                continue
            if isinstance(value, list):
                for index, child in enumerate(value):
                    if isinstance(child, ast.AST) and not (
                        field in ("args", "keywords") and index >= first_message and isinstance(node, ast.Call)
                    ):
                        self.visit(node, field, index, child, inside)
            elif isinstance(value, ast.AST):
                self.visit(node, field, None, value, inside)

    def visit(self, parent: ast.AST, field: str, index: int | None, node: ast.AST, inside: str) -> None:
        for new in changes(node, parent, field):
            self.found.append((parent, field, index, new, inside))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return  # texts
        if isinstance(node, ast.keyword) and node.arg == "strict":
            return  # zip(strict=True) states what earlier checks have established; its ValueError could be no verdict
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            return  # an annotation
        if isinstance(node, ast.UnaryOp) and isinstance(parent, ast.Call) and name_of(parent) == "reshape":
            return  # NumPy takes any negative length for "what remains"
        self.visit_children(node, inside)


def changes(node: ast.AST, parent: ast.AST, field: str) -> Iterator[ast.AST]:
    """All replacements of one node."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[i] = COMPARISONS[type(op)]()
            yield new
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        new_op = copy.deepcopy(node)
        new_op.op = ARITHMETIC[type(node.op)]()
        yield new_op
    elif isinstance(node, ast.BoolOp):
        new_bool = copy.deepcopy(node)
        new_bool.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.IfExp) and not reversed_anyway(node.test):
        new_if = copy.deepcopy(node)
        new_if.test = ast.UnaryOp(ast.Not(), new_if.test)
        yield new_if
    elif isinstance(node, ast.comprehension) and node.ifs:
        new_for = copy.deepcopy(node)
        new_for.ifs[0] = ast.UnaryOp(ast.Not(), new_for.ifs[0])
        yield new_for
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()
    elif isinstance(node, ast.Call) and len(node.args) > 1 and name_of(node) not in {*MESSAGE_FROM, *COMMUTATIVE}:
        a, b = node.args[:2]
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred) and ast.dump(a) != ast.dump(b):
            new_call = copy.deepcopy(node)
            new_call.args[0], new_call.args[1] = new_call.args[1], new_call.args[0]
            yield new_call


def reversed_anyway(test: ast.expr) -> bool:
    """Its own operator already gives the opposite: == and !=, in, is, not."""
    if isinstance(test, ast.UnaryOp):
        return isinstance(test.op, ast.Not)
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and not isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)


def short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) < 90 else text[:87] + "..."


def every(path: str, text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Of every mutant of a module, in the order of the source: its key, and the function (by class, if it has one) whose code it
    changes; () if it is outside functions."""
    out: list[tuple[str, tuple[str, ...]]] = []
    seen: dict[str, int] = {}
    tree = ast.parse(text)
    bodies: dict[str, tuple[tuple[str, ...], set[int]]] = {}
    for parent, field, index, new, inside in _Walk(tree).found:
        place = getattr(parent, field)
        old = place if index is None else place[index]
        around = f" in {short(parent)}" if isinstance(old, ast.Constant | ast.UnaryOp | ast.BinOp) else ""
        key = f"{path}: {inside}: {head(old)} -> {head(new)}{around}"
        seen[key] = seen.get(key, 0) + 1
        if inside not in bodies:
            bodies[inside] = function_around(tree, inside.split("."))
        names, nodes = bodies[inside]
        out.append((key if seen[key] == 1 else f"{key} #{seen[key]}", names if id(old) in nodes else ()))
    return out


def mutated(text: str, number: int) -> str:
    """The module's source with change `number`."""
    tree = ast.parse(text)
    parent, field, index, new, _ = _Walk(tree).found[number]
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new
    return ast.unparse(ast.fix_missing_locations(tree))


def function_around(tree: ast.Module, names: list[str]) -> tuple[tuple[str, ...], set[int]]:
    """The outermost function among nested ones and the nodes of its body: default values are no part of its code."""
    place: ast.Module | ast.ClassDef = tree
    for depth, name in enumerate(names):
        found = next((x for x in place.body if isinstance(x, ast.FunctionDef | ast.ClassDef) and x.name == name), None)
        if isinstance(found, ast.FunctionDef):
            return tuple(names[: depth + 1]), {id(x) for b in found.body for x in ast.walk(b)}
        if found is None:
            break
        place = found
    return (), set()


def head(node: ast.AST) -> str:
    """The code of a node; of an if statement its condition."""
    return f"if {short(node.test)}" if isinstance(node, ast.If) else short(node)
