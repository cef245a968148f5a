"""Every place in protocol/ and verifier/ where a verification can fail, read from the source.

A site is (module, function, reason). Found by syntax: `VerificationError("reason", …)`, and the helpers that are given a reason
(`require`, `check_equal`, `check_columns`, `_columns`, `_climb`) or always have the same (`_need`, `_fail`, `_invalid`).
`site_of` says which of them raised an exception. Called by tests/attacks/test_reasons.py.
"""

import ast
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
# helper → index of the argument that is the reason, or the reason itself
GIVEN = {"VerificationError": 0, "require": 1, "check_equal": 0, "check_columns": 0, "_columns": 0}
FIXED = {"_need": "manifest", "_fail": "manifest", "_invalid": "malformed model configuration"}
HELPERS = {"require", "check_equal", "check_columns", "_columns", "_need", "_fail", "_invalid"}
# reasons that are computed: what they can be
COMPUTED = {
    ("verifier.note", "signed_by"): ("cosignature", "checkpoint-signature"),
    ("verifier.note", "_text"): ("policy-format", "checkpoint-format"),
    ("verifier.log", "_climb"): ("inclusion", "consistency"),
}
Site = tuple[str, str, str]


class _Sites(ast.NodeVisitor):
    def __init__(self, module: str) -> None:
        self.module, self.inside, self.found = module, list[str](), set[Site]()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside.append(node.name)
        self.generic_visit(node)
        self.inside.pop()

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        function = self.inside[-1] if self.inside else ""
        if name not in GIVEN | FIXED or function in HELPERS or (name == "require" and not isinstance(node.func, ast.Name)):
            return
        if name in FIXED:
            self.found.add((self.module, function, FIXED[name]))
            return
        reason = node.args[GIVEN[name]]
        if isinstance(reason, ast.Constant):
            self.found.add((self.module, function, str(reason.value)))
        else:
            self.found |= {(self.module, function, r) for r in COMPUTED[self.module, function]}


def sites() -> set[Site]:
    found: set[Site] = set()
    for package in ("protocol", "verifier"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            visitor = _Sites(module)
            visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
            found |= visitor.found
    return found


def site_of(traceback: TracebackType | None, reason: str) -> Site:
    """The innermost frame in protocol/ or verifier/ that is no helper."""
    last = ("", "", reason)
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.split(".")[0] in ("protocol", "verifier") and code.co_name not in HELPERS:
            name = code.co_name if not code.co_name.startswith("<") else last[1]  # a comprehension belongs to its function
            last = (module, name, reason)
        traceback = traceback.tb_next
    return last
