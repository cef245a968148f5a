"""Exit codes: 1 rejected or tampered, 2 usage or bad input, 3 unavailable; one message and no traceback."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from cli.output import reporting
from flows.config import ConfigError
from protocol.errors import VerificationError
from prover.files.adapter import AdapterFileError
from storage.errors import BudgetExhausted, IntegrityError, LedgerVersionError, MissingObject, StorageError, StoreFull, UnknownRun
from tasks.context import RunError
from tasks.shortage import OutOfMemory
from verifier.sample import Sample


@pytest.mark.parametrize(("error", "code"), [
    (VerificationError("reason", "where"), 1),
    (IntegrityError("an object"), 1),
    (UnknownRun("no run"), 2),
    (BudgetExhausted("none left"), 2),
    (ConfigError(Path("run.yaml"), ["lora.r: 0"]), 2),
    (AdapterFileError("a file"), 2),
    (StoreFull("no space"), 3),
    (MissingObject("an object"), 3),
    (LedgerVersionError("newer"), 3),
    (StorageError("a folder"), 3),
    (OSError("a disk"), 3),
    (RuntimeError("something else"), 3),
    (RunError("a run"), 2),
    (OutOfMemory("a task"), 3),
])
def test_every_error_has_its_exit_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, reporting():
        raise error
    printed = capsys.readouterr()
    assert caught.value.exit_code == code
    assert printed.out == "" and printed.err.startswith("error:") and "Traceback" not in printed.err


def test_a_command_without_memory_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The allocator's own words, of which the system gives too little: more addresses than a process has."""
    with pytest.raises(typer.Exit) as caught, reporting():
        np.empty(1 << 52)
    said = capsys.readouterr().err
    assert caught.value.exit_code == 3 and said.startswith("error: this command ran out of memory (Unable to allocate 32.0 PiB")
    assert "What was recorded before stays" in said and said.count("\n") == 1


def test_a_sentence_of_this_program_stands_without_the_name_of_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reporting():
        Sample("zz", 1)
    with pytest.raises(typer.Exit), reporting():
        json.loads("{")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: a sample needs") and second.startswith("error: JSONDecodeError: Expecting")


def test_an_interrupt_ends_with_130_and_says_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, reporting(interrupted="interrupted: no verdict"):
        raise KeyboardInterrupt
    assert caught.value.exit_code == 130 and capsys.readouterr().err == "error: interrupted: no verdict\n"


def test_debug_shows_where_it_happened() -> None:
    with pytest.raises(RuntimeError), reporting(debug=True):
        raise RuntimeError("something else")


def test_markup_in_a_message_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reporting():
        raise StorageError("key [bold]x[/] of [lora]")
    assert "[bold]x[/] of [lora]" in capsys.readouterr().err
