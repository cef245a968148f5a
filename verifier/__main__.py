"""`python -m verifier BUNDLE`: verify an exported bundle offline. Exit codes: 0 accepted (or a sample passed), 1 rejected,
2 usage or bad input, 3 a file or this machine's memory is not available, 130 interrupted. A terminal is shown how many tasks are done.

    --policy FILE   trusted log keys and cosigners (C2SP tlog-policy); without it the log's signature is not checked
    --seen FILE     checkpoint seen earlier: a rollback or fork of the log is found; replaced by the new one afterwards
    --expect FILE   the order, nested JSON; any difference rejects
    --sample K --beacon HEX    look at K tasks drawn by public randomness only
    --report DIR    write report.html and report.json;   --receipt FILE --sign-key FILE    write the signed verdict
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from protocol.errors import VerificationError
from protocol.statement import task_list
from verifier.bundle import MAX_ROWS, read_bundle
from verifier.evidence import Verdict, read_checkpoint, verify_bundle
from verifier.note import parse_policy
from verifier.receipt import load_key, sign_receipt
from verifier.report import report, write_report, write_whole
from verifier.run import Job, TaskVerdict, check_one, one_by_one
from verifier.sample import Sample
from verifier.task import one_line

ACCEPTED, REJECTED, USAGE, UNAVAILABLE = range(4)
INTERRUPTED = 130


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="verilora-verify", description="Verify an exported bundle offline.", epilog=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    for name in ("policy", "seen", "expect", "report", "receipt", "sign-key"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--beacon", default="")
    parser.add_argument("--memory", type=int, default=MAX_ROWS >> 20, help="MiB of rows to keep in memory")
    parser.add_argument("--verifier", default="verilora-verify", help="who verifies, as the receipt says")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if (options.receipt is None) != (options.sign_key is None) or (options.sample is None) != (not options.beacon):
        parser.error("--receipt and --sign-key, and --sample and --beacon, belong together")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, write what was asked for, print the verdict."""
    options = _options(arguments)
    try:
        policy = parse_policy(options.policy.read_bytes()) if options.policy else None
        seen = read_checkpoint(options.seen.read_bytes(), policy) if options.seen and options.seen.exists() else None
        order = json.loads(options.expect.read_bytes(), parse_float=str) if options.expect else None  # decimals as written
        if options.expect and not isinstance(order, dict):
            raise ValueError(f"{options.expect} holds no JSON object")
        sample = Sample(options.beacon, options.sample) if options.sample is not None else None
        key = load_key(options.sign_key) if options.sign_key else None
    except (ValueError, VerificationError, RecursionError) as error:
        place = f"{options.expect}: an order is JSON here, not YAML: " if isinstance(error, json.JSONDecodeError) else ""
        print(f"error: {place}{error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNAVAILABLE
    try:
        try:
            bundle = read_bundle(options.bundle, options.memory << 20)
            verdict = verify_bundle(bundle, policy, order, seen, sample, counted if sys.stderr.isatty() else one_by_one)
        except VerificationError as error:
            verdict = Verdict("", b"", str(error), "")
        values = report(verdict)
        if options.report:
            write_report(options.report, values)
        if key and verdict.checkpoint:
            write_whole(options.receipt, sign_receipt(values, options.verifier, key))
        if options.seen and verdict.rows:
            write_whole(options.seen, verdict.checkpoint)
    except (OSError, MemoryError) as error:
        print(f"error: {error or 'not enough memory'}", file=sys.stderr)
        return UNAVAILABLE
    except KeyboardInterrupt:
        print("\ninterrupted: no verdict", file=sys.stderr)
        return INTERRUPTED
    print(json.dumps(values, indent=2) if options.json else text(values))
    return REJECTED if verdict.state == "rejected" else ACCEPTED


def counted(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
    """Check here, in order, and say on one line of the terminal how far it is."""
    total = 0
    for done, job in enumerate(jobs):
        total = total or len(task_list(job.manifest))
        print(f"\rverified {done} of the run's {total} tasks", end="", file=sys.stderr, flush=True)
        yield check_one(*job)
    print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def text(values: dict[str, Any]) -> str:
    """The verdict in a few lines."""
    accepted = sum(item["accepted"] for item in values["tasks"])
    lines = [f"{values['state'].upper()} run {values['run']}", values["reason"], values["sample"], values["order"],
             f"{accepted} of {len(values['tasks'])} tasks accepted, {values['bits']} bits per proof", values["log"].get("trust", "")]
    return "\n".join(one_line(line) for line in lines if line)


if __name__ == "__main__":
    sys.exit(main())
