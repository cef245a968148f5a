"""Building the kernels: aarch64 compiles (through ziglang), concurrent builders make one library, a failing compiler is reported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from prover.kernels import build


def test_aarch64_compiles(tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: pip install ziglang")
    output = tmp_path / "kernels.so"
    zig = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu.2.28"]
    arguments = [a for a in build.command("native", output, zig) if not a.startswith(("-march", "-Wno"))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert output.stat().st_size > 10_000


def test_concurrent_builds_make_one_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two builders waits for the first one's lock and compiles nothing."""
    for source in build.SOURCE.iterdir():
        if source.suffix in (".h", ".cpp"):
            (tmp_path / source.name).write_bytes(source.read_bytes())
    log = tmp_path / "runs"
    fake = tmp_path / "cxx"
    fake.write_text(f'#!/bin/sh\necho run >> {log}\nsleep 0.3\nwhile [ "$1" != -o ]; do shift; done\necho library > "$2"\n')
    fake.chmod(0o755)
    script = (
        "import sys, pathlib; from prover.kernels import build; build.SOURCE = pathlib.Path(sys.argv[1]); "
        "print(build.build(build.levels()[-1]))"
    )
    monkeypatch.setenv("CXX", str(fake))
    root = build.SOURCE.parent.parent
    both = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=30)[0].strip() for process in both]
    assert outputs[0] == outputs[1] and Path(outputs[0]).read_text() == "library\n"
    assert log.read_text() == "run\n"


def test_zig_gets_its_own_spelling_of_a_level(tmp_path: Path) -> None:
    zig = build.command("x86-64-v3", tmp_path / "k.so", ["python", "-m", "ziglang", "c++"])
    assert "-march=x86_64_v3" in zig and "-march=x86-64-v3" in build.command("x86-64-v3", tmp_path / "k.so", ["g++"])


def test_build_reports_a_failing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("kernels.cpp", "field.h"):
        (tmp_path / name).write_text("this is not C++")
    monkeypatch.setattr(build, "SOURCE", tmp_path)
    with pytest.raises(RuntimeError, match="kernels failed"):
        build.build(build.host_level())
    assert not list(tmp_path.glob("*.partial.so"))
