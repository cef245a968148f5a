"""Coverage-guided fuzzing of the verifier (atheris): `make fuzz`, or `python -m tests.campaigns.fuzz [TARGET …] --seconds N`.

Every target runs in a process of its own that has loaded nothing but the verifier, with a limit on memory, an audit hook that
knows which events hostile bytes must not cause (imports, pickle, sockets, processes, files), and a clock: no input may take
more than twice the CPU time of the honest one. What was found to be interesting is then replayed without the fuzzer around it, and
the peak memory of that process is what is printed. One line for each target; exits 1 on any finding, whose input is kept.

    fuzz TARGET: tried N, rejected N, survivors N, coverage N, at most X of the honest time, N MB
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ADDED = 192 << 20  # bytes of data that one input may make the verifier take, beside the 64 MB that it has when idle
PEAK = 256  # MB of a process that replays
NAMES = ("proof", "statement", "manifest", "relation", "bundle", "rows", "note", "receipt", "log")  # fuzz_targets.TARGETS
GRACE = 0.05  # seconds of CPU that are never too much: what is measured is noise below
FORBIDDEN = ("import", "pickle.", "marshal.", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
             "ctypes.", "exec", "compile", "shutil.", "urllib.", "ftplib.", "http.")


class Guard:
    """Notices forbidden events, lost memory and lost time while a target runs."""

    def __init__(self, may_open: Path) -> None:
        self.armed, self.events, self.may_open = False, list[str](), str(may_open)
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event.startswith(FORBIDDEN) or event == "open" and str(arguments[0]) != self.may_open:
            self.events.append(f"{event} {str(arguments)[:120]}")

    def run(self, target: Callable[[bytes], str], data: bytes) -> tuple[str, float]:
        """(outcome, CPU seconds); Finding for a forbidden event."""
        from tests.campaigns.fuzz_targets import Finding

        started = time.process_time()
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + ADDED, resource.RLIM_INFINITY))
        self.armed = True
        try:
            outcome = target(data)
        finally:
            self.armed = False
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if self.events:
            raise Finding(f"audit events: {self.events[:3]}")
        return outcome, time.process_time() - started


def data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


class Watched:
    """One target under guard, with what was counted so far."""

    def __init__(self, folder: Path, name: str) -> None:
        from tests.campaigns.fuzz_targets import TARGETS, Honest

        self.honest = Honest(folder)
        (self.target,) = (make(self.honest) for make in TARGETS if make.__name__ == name)
        self.guard, self.counts = Guard(self.honest.scratch), {"tried": 0, "rejected": 0, "share": 0.0}
        outcomes = [self.target.run(seed) for seed in self.target.seeds]  # fills caches, does lazy imports
        if "honest" not in outcomes and name not in ("relation", "rows"):
            raise RuntimeError(f"{name}: no seed is honest, so nothing would be tested")
        self.known = self.honest.known.copy()
        self.time = max(self.guard.run(self.target.run, seed)[1] for seed in self.target.seeds)

    def one(self, data: bytes) -> None:
        """Finding, or another exception than VerificationError, for what must not be."""
        from tests.campaigns.fuzz_targets import Finding

        outcome, spent = self.guard.run(self.target.run, data)
        allowed = 2 * self.time + GRACE
        if spent > allowed:
            spent = min(self.guard.run(self.target.run, data)[1] for _ in range(3))
            if spent > allowed:
                raise Finding(f"{spent:.3f} s of CPU time, the honest input takes {self.time:.3f} s")
        self.counts["tried"] += 1
        self.counts["rejected"] += outcome == ""
        self.counts["share"] = max(self.counts["share"], spent / (self.time + GRACE))
        if len(self.honest.known) > 512:
            self.honest.known.clear()
            self.honest.known.update(self.known)

    def report(self, artifacts: Path) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        (artifacts / "status.new").write_text(json.dumps(self.counts | {"megabytes": peak}))
        (artifacts / "status.new").replace(artifacts / "status")  # libFuzzer may end the process at any moment


def child(folder: Path, name: str, seconds: int, artifacts: Path) -> None:
    """Fuzz one target until the time is up; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["verifier", "protocol"]):
        watched = Watched(folder, name)

    def one(data: bytes) -> None:
        watched.one(data)
        if watched.counts["tried"] % 16 == 0:
            watched.report(artifacts)

    corpus, seeds = artifacts / "corpus", watched.target.seeds
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    longest = max(2 * max(len(seed) for seed in seeds), 4096)
    atheris.Setup([name, str(corpus), f"-max_total_time={seconds}", f"-max_len={longest}", "-timeout=120", "-len_control=0",
                   "-rss_limit_mb=0", "-print_final_stats=1", f"-artifact_prefix={artifacts}/{name}-"], one)
    atheris.Fuzz()


def replay(folder: Path, name: str, artifacts: Path) -> None:
    """Run the corpus again without the fuzzer's own memory and delays."""
    from tests.campaigns.fuzz_targets import Finding

    watched = Watched(folder, name)
    for path in sorted((artifacts / "corpus").iterdir()):
        watched.one(path.read_bytes())
    watched.report(artifacts)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10 > PEAK:
        raise Finding(f"more than {PEAK} MB")


def prepare(folder: Path) -> None:
    """An honest run, exported, with its policy and a receipt: the only part that needs the prover."""
    from tests.cli.build_run import RUN_ID, build_run
    from tests.support.bundles import KEYS, policy, source_of
    from verifier.bundle import read_bundle
    from verifier.evidence import verify_bundle
    from verifier.receipt import load_key, sign_receipt
    from verifier.report import report

    (folder / "built").mkdir()
    source = source_of(build_run(folder / "built"))
    (folder / "run.bundle").write_bytes(source.bytes())
    (folder / "policy").write_text(KEYS.policy_text())
    verdict = verify_bundle(read_bundle(str(folder / "run.bundle")), policy())
    if not verdict.accepted or verdict.run_id != RUN_ID:
        raise RuntimeError(f"the honest run is rejected: {verdict.reason}")
    (folder / "receipt").write_bytes(sign_receipt(report(verdict), "fuzz", load_key(folder / "key.pem")))


def campaign(names: list[str], seconds: int, keep: Path) -> int:
    """One target after another; the number of findings."""
    found = 0
    with tempfile.TemporaryDirectory() as place:
        # in a process of its own, because a child's peak memory begins at its parent's
        start("--prepare", place).check_returncode()
        for name in names:
            artifacts = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
            fuzzed = start(name, "--child", place, "--artifacts", str(artifacts), "--seconds", str(seconds))
            counts = status(artifacts)
            again = start(name, "--replay", place, "--artifacts", str(artifacts))
            edges, last = re.findall(r"cov: (\d+)", fuzzed.stderr), status(artifacts)
            failed = fuzzed.returncode != 0 or again.returncode != 0 or not counts["tried"]
            found += failed
            print(f"fuzz {name}: tried {counts['tried']}, rejected {counts['rejected']}, survivors {int(failed)}, coverage "
                  f"{edges[-1] if edges else 0}, at most {last['share']:.2f} of the honest time, {last['megabytes']} MB", flush=True)
            if failed:
                keep.mkdir(parents=True, exist_ok=True)
                for path in artifacts.glob(f"{name}-*"):
                    (keep / path.name).write_bytes(path.read_bytes())
                lines = (fuzzed.stdout + fuzzed.stderr + again.stderr).splitlines()
                what = [line[:300] for line in lines if re.match(r" *([\w.]*(Error|Finding|Exception)\b|==\d+== ERROR)", line)]
                print(f"  inputs kept in {keep}: " + "; ".join(what or lines[-3:]), flush=True)
    return found


def start(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.campaigns.fuzz", *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})


def status(artifacts: Path) -> dict[str, Any]:
    path = artifacts / "status"
    return json.loads(path.read_text()) if path.exists() else {"tried": 0, "rejected": 0, "share": 0.0, "megabytes": 0}  # type: ignore[no-any-return]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=" ".join(NAMES))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs of findings go")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--replay", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--artifacts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare)
        return 0
    if options.child:
        child(options.child, options.targets[0], options.seconds, options.artifacts)
    if options.replay:
        replay(options.replay, options.targets[0], options.artifacts)
        return 0
    return 1 if campaign(options.targets or list(NAMES), options.seconds, options.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
