"""What every command shares: where text goes, how JSON is printed, and the one place where an error gets an exit code.

Exit codes: 0 fine, 1 rejected or tampered, 2 usage or bad input, 3 unavailable, 130 interrupted. Results go to standard output,
progress and errors to standard error, so that `--json` output is JSON alone. An error is one message; its traceback needs --debug.
"""

import contextlib
import json
import threading
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

FINE, REJECTED, USAGE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130
PATIENCE = 3.0  # seconds after which whoever waits is told what for


def visible(text: str, keep: str = "") -> str:
    """The text without what a terminal obeys or what changes how the text beside it is read: controls, line ends, bidirectional
    overrides. Ledgers and bundles hold what somebody else wrote."""
    bad = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(c if c in keep or unicodedata.category(c) not in bad else "\ufffd" for c in text)


class _Terminal(Console):
    """A console on which every string, cells of tables too, is visible text; a message may have several lines."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, keep="\n"), **options)


console = _Terminal()
errors = _Terminal(stderr=True)


def emit_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def complain(message: str, code: int) -> typer.Exit:
    """Print one message to standard error; the caller raises what is returned."""
    errors.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(code)


@contextlib.contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Gives a function that takes what is being done now; every few seconds that is said on standard error, unless it was said already.
    Work that is done sooner says nothing."""
    doing, ended = [""], threading.Event()

    def watch() -> None:
        said = ""
        while not ended.wait(PATIENCE):
            if doing[0] != said:
                said = doing[0]
                errors.print(said, markup=False, highlight=False, soft_wrap=True)

    def tell(text: str) -> None:
        doing[0] = text

    thread = threading.Thread(target=watch, name="telling", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def reporting(debug: bool = False, interrupted: str = "interrupted") -> Iterator[None]:
    """Turn an error into a message and an exit code; with `debug` let it through. `interrupted` is said after Ctrl-C."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        raise complain(interrupted, INTERRUPTED) from None
    except Exception as error:
        if debug:
            raise
        raise complain(_shortage(error) or _message(error), exit_code(error)) from None


def exit_code(error: Exception) -> int:
    """By the error's kind; names are compared where importing the class would import the prover."""
    from protocol.errors import VerificationError
    from storage.errors import BudgetExhausted, IntegrityError, LedgerConflict, StorageConflict, UnknownRun

    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, VerificationError | IntegrityError | LedgerConflict | StorageConflict):
        return REJECTED
    if kinds & {"GpuFailed", "OutOfMemory"}:  # RunErrors, but the machine's doing
        return UNAVAILABLE
    if isinstance(error, UnknownRun | BudgetExhausted | ValueError) or kinds & BAD_INPUT:
        return USAGE
    return UNAVAILABLE


# errors of packages that a verifying process does not import, and of files that a user gave
BAD_INPUT = {
    "AdapterFileError", "AmbiguousRun", "ConfigError", "DatasetError", "DeployError", "InitError", "ModelFileError", "PlanError",
    "RangeOverflow", "RelationError", "RunError", "TrustError",
}


def _shortage(error: Exception) -> str:
    """What to say of a command that had no memory, and nothing more to say of it."""
    from tasks.allocators import lack_of_memory

    said = lack_of_memory(error)
    if said is None:
        return ""
    return (f"this command ran out of memory ({said}): end what else runs on this machine, or use one with more memory, then repeat it. "
            "What was recorded before stays")


OWN = ("protocol", "verifier", "prover", "storage", "tasks", "flows", "api", "cli")


def _message(error: Exception) -> str:
    text = str(error).strip()
    said = _raised_in(error) if type(error) is ValueError else type(error).__module__
    known = said.split(".")[0] in OWN  # a text of this program's stands for itself, another's needs its kind
    return text if known and text else f"{type(error).__name__}: {text}" if text else type(error).__name__


def _raised_in(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
