"""Architecture held by tests: who may import whom, what an auditor reads stays small and plain, files stay short.

flows → tasks → storage | prover | verifier → protocol. Checked on the syntax tree, so nothing is imported to be judged.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# package → first-party packages it may import, besides itself
ALLOWED: dict[str, set[str]] = {
    "protocol": set(),
    "verifier": {"protocol"},
    "prover": {"protocol"},
    "migrations": set(),
    "storage": {"protocol", "migrations", "verifier"},  # one implementation of the log's hashes and notes
    "tasks": {"storage", "prover", "verifier", "protocol"},
    "flows": {"tasks", "storage", "prover", "verifier", "protocol"},
    "api": {"storage", "verifier", "protocol"},
    "cli": {"flows", "tasks", "storage", "prover", "verifier", "protocol", "api"},
}
INFRASTRUCTURE = {"prefect", "sqlalchemy", "alembic", "boto3", "botocore", "fastapi", "typer"}
ARRAYS = {"torch", "cupy", "jax", "numba"}
# an auditor's code has no clock, network, processes, unsafe decoding or unseeded chance
UNSAFE = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "time", "datetime", "socket", "ssl", "http", "urllib",
    "urllib3", "requests", "httpx", "ftplib", "smtplib", "asyncio", "subprocess", "multiprocessing", "random",
}
FORBIDDEN: dict[str, set[str]] = {
    "protocol": INFRASTRUCTURE | ARRAYS | UNSAFE,
    "verifier": INFRASTRUCTURE | ARRAYS | UNSAFE,
    "prover": INFRASTRUCTURE,
    "storage": ARRAYS,
}
AUDITED = ("protocol", "verifier")
# what an auditor reads, in three sittings (docs/decisions/0018): lines of code at most
SITTINGS = {
    "the proof system": (1600, ("channel", "code", "encoding", "errors", "field", "layout", "merkle", "params", "schedule", "soundness")),
    "the training that is proved": (1850, ("manifest", "model_config", "optimizer", "relation", "rope", "statement", "streams")),
    "the evidence": (1000, ("verifier",)),
}
MAX_FILE_LINES = 400
SOURCES = (*ALLOWED, "tests", "benchmarks", "examples")
KERNEL_SUFFIXES = {".h", ".hpp", ".cpp", ".cu", ".cuh", ".inc"}


def files_of(name: str) -> list[Path]:
    if (ROOT / f"{name}.py").is_file():
        return [ROOT / f"{name}.py"]
    return sorted((ROOT / name).rglob("*.py"))


def imports(source: str) -> set[str]:
    """Dotted names imported anywhere in a source text, also inside functions; a relative import is '.'."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return found


def import_faults(package: str, source: str) -> set[str]:
    """What a file of `package` imports although it must not."""
    tops = {name.split(".")[0] or "." for name in imports(source)}
    first_party = tops & set(SOURCES) - ALLOWED[package] - {package}
    foreign = set()
    if package == "protocol":
        foreign = tops - set(sys.stdlib_module_names) - {"numpy", *SOURCES}
    return first_party | foreign | tops & ({"."} | FORBIDDEN.get(package, set()))


def plainness_faults(source: str) -> list[str]:
    """Constructs that the code an auditor reads must not have."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert | ast.Global):
            faults.append(f"{type(node).__name__.lower()} in line {node.lineno}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile", "__import__"):
            faults.append(f"{node.func.id} in line {node.lineno}")
    return faults


def code_lines(source: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in skip
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            doc = node.body[0]
            lines -= set(range(doc.lineno, (doc.end_lineno or doc.lineno) + 1))
    return len(lines)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_downwards(package: str) -> None:
    faults = {str(path.relative_to(ROOT)): found for path in files_of(package) if (found := import_faults(package, path.read_text()))}
    assert faults == {}


def test_audited_code_is_plain() -> None:
    paths = [path for package in AUDITED for path in files_of(package)]
    assert paths
    faults = {str(path.relative_to(ROOT)): found for path in paths if (found := plainness_faults(path.read_text()))}
    assert faults == {}


def test_audited_code_stays_small() -> None:
    counts = dict.fromkeys(SITTINGS, 0)
    for path in (path for package in AUDITED for path in files_of(package)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        part = parts[0] if parts[0] == "verifier" else parts[1]
        if part != "__init__":
            (sitting,) = [name for name, (_, members) in SITTINGS.items() if part in members]
            counts[sitting] += code_lines(path.read_text())
    assert all(0 < counts[name] <= limit for name, (limit, _) in SITTINGS.items()), counts


def test_files_stay_short() -> None:
    kernels = [path for path in (ROOT / "prover" / "kernels").rglob("*") if path.suffix in KERNEL_SUFFIXES]
    paths = [path for name in SOURCES for path in files_of(name)] + kernels
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_every_module_says_what_it_does() -> None:
    paths = [path for name in SOURCES for path in files_of(name) if path.read_text().strip()]
    assert [str(path.relative_to(ROOT)) for path in paths if ast.get_docstring(ast.parse(path.read_text())) is None] == []


@pytest.mark.parametrize(("package", "source", "faults"), [
    ("verifier", "from prover.executor import run", {"prover"}),
    ("verifier", "def f():\n    import prover", {"prover"}),
    ("verifier", "import importlib\nimportlib.import_module('prover.x')", {"prover"}),
    ("verifier", "from protocol import field\nimport numpy, json", set()),
    ("protocol", "import verifier", {"verifier"}),
    ("protocol", "import numpy as np\nimport hashlib\nfrom protocol.field import Field", set()),
    ("protocol", "import yaml", {"yaml"}),
    ("protocol", "from . import field", {"."}),
    ("protocol", "import torch.nn", {"torch"}),
    ("protocol", "from time import monotonic", {"time"}),
    ("prover", "import sqlalchemy as sa", {"sqlalchemy"}),
    ("prover", "from storage.private import PrivateStore", {"storage"}),
    ("prover", "import torch", set()),
    ("storage", "from tasks import prove", {"tasks"}),
    ("tasks", "from flows.config import load_config", {"flows"}),
    ("flows", "import tests.helper", {"tests"}),
])
def test_a_fault_is_found(package: str, source: str, faults: set[str]) -> None:
    assert import_faults(package, source) == faults


def test_a_construct_is_found() -> None:
    source = "import re\nre.compile('x')\ndef f():\n    global g\n    assert g\n    eval('1')\n    exec('1')\n"
    assert len(plainness_faults(source)) == 4


def test_lines_are_counted() -> None:
    source = '"""Module\n\ndoc."""\n\n# comment\nX = """two\nlines"""  # both count\n\n\n'
    source += 'def f():\n    """Doc."""\n    return (\n        1\n    )\n'
    assert code_lines(source) == 6
