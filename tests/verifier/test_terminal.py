"""What somebody sees who runs `verilora-verify` at a terminal: how far it is, and a clean end when they have enough."""

import io
import sys
from pathlib import Path

import pytest

import verifier.__main__ as program


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_how_far_it_is_and_a_file_is_not(
    honest: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundle").write_bytes(honest)
    assert program.main([str(tmp_path / "bundle")]) == 0
    plain = capsys.readouterr()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert program.main([str(tmp_path / "bundle")]) == 0
    assert plain.err == "" and plain.out.startswith("ACCEPTED") and capsys.readouterr().out == plain.out
    assert terminal.getvalue() == "".join(f"\rverified {n} of the run's 10 tasks" for n in range(10)) + "\r\x1b[K"


def test_an_interrupt_is_no_verdict(
    honest: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*job: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "bundle").write_bytes(honest)
    monkeypatch.setattr("verifier.run.check_one", interrupted)
    assert program.main([str(tmp_path / "bundle")]) == program.INTERRUPTED == 130
    said = capsys.readouterr()
    assert said.out == "" and said.err == "\ninterrupted: no verdict\n"
