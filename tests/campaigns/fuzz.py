"""Coverage-guided fuzzing of the verifier (atheris): `make fuzz`, or `python -m tests.campaigns.fuzz [TARGET …] --seconds N`.

Every target runs in a process of its own that has loaded nothing but the verifier, with 256 MB of data at most, an audit hook that
knows which events hostile bytes must not cause (imports, pickle, sockets, processes, files), and a clock: no input may take
more than twice the CPU time of the honest one. Prints one line for each target and exits 1 on any finding, whose input is kept.

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

MEMORY = 200 << 20  # bytes of data that a target may take beside the 56 MB of the idle verifier
NAMES = ("proof", "statement", "manifest", "relation", "bundle", "rows", "note", "receipt", "log")  # fuzz_targets.TARGETS
GRACE = 0.05  # seconds of CPU that are never too much: what is measured is noise below
FORBIDDEN = ("import", "pickle.", "marshal.", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
             "ctypes.", "exec", "compile", "shutil.", "urllib.", "ftplib.", "http.")


class Guard:
    """Notices forbidden events, lost memory and lost time while a target runs."""

    def __init__(self, may_open: Path) -> None:
        self.armed, self.events, self.may_open, self.limit = False, list[str](), str(may_open), resource.RLIM_INFINITY
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
        resource.setrlimit(resource.RLIMIT_DATA, (self.limit, resource.RLIM_INFINITY))
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


def child(folder: Path, name: str, seconds: int, artifacts: Path) -> None:
    """Fuzz one target until the time is up; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["verifier", "protocol"]):
        from tests.campaigns.fuzz_targets import TARGETS, Finding, Honest
    honest = Honest(folder)
    (target,) = (make(honest) for make in TARGETS if make.__name__ == name)
    guard, counts = Guard(honest.scratch), {"tried": 0, "rejected": 0, "slowest": 0.0}
    for seed in target.seeds:  # caches are filled and lazy imports done before anything is measured
        target.run(seed)
    if not any(target.run(seed) == "honest" for seed in target.seeds) and name not in ("relation", "rows"):
        raise RuntimeError(f"{name}: no seed is honest, so nothing would be tested")
    known = getattr(honest, "known", {}).copy()
    honest_time = max(guard.run(target.run, seed)[1] for seed in target.seeds)
    guard.limit = data_bytes() + MEMORY

    def one(data: bytes) -> None:
        outcome, spent = guard.run(target.run, data)
        if spent > 2 * honest_time + GRACE:
            spent = min(guard.run(target.run, data)[1] for _ in range(3))
            if spent > 2 * honest_time + GRACE:
                raise Finding(f"{spent:.3f} s of CPU time, the honest input takes {honest_time:.3f} s")
        counts["tried"] += 1
        counts["rejected"] += outcome == ""
        counts["slowest"] = max(counts["slowest"], spent)
        if len(honest.known) > 512:
            honest.known.clear()
            honest.known.update(known)
        if counts["tried"] % 16 == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            share = counts["slowest"] / (honest_time + GRACE)
            (artifacts / "status.new").write_text(json.dumps(counts | {"share": share, "megabytes": peak}))
            (artifacts / "status.new").replace(artifacts / "status")  # libFuzzer may end the process at any moment

    corpus = artifacts / f"{name}.corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    longest = max(len(seed) for seed in target.seeds)
    atheris.Setup([name, str(corpus), f"-max_total_time={seconds}", f"-max_len={max(2 * longest, 4096)}", "-timeout=120", "-len_control=0",
                   "-rss_limit_mb=0", "-print_final_stats=1", f"-artifact_prefix={artifacts}/{name}-", "-verbosity=1"], one)
    atheris.Fuzz()


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
    """One process after another; the number of findings."""
    found = 0
    with tempfile.TemporaryDirectory() as place:
        # in a process of its own, because a child's peak memory begins at its parent's
        subprocess.run([sys.executable, "-m", "tests.campaigns.fuzz", "--prepare", place], check=True)
        for name in names:
            artifacts = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place))
            command = [sys.executable, "-m", "tests.campaigns.fuzz", name, "--child", place, "--artifacts", str(artifacts), "--seconds", str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
            status = artifacts / "status"
            counts = json.loads(status.read_text()) if status.exists() else {"tried": 0, "rejected": 0, "share": 0.0, "megabytes": 0}
            edges = re.findall(r"cov: (\d+)", done.stderr)
            failed = done.returncode != 0 or not counts["tried"]
            found += failed
            print(f"fuzz {name}: tried {counts['tried']}, rejected {counts['rejected']}, survivors {int(failed)}, coverage "
                  f"{edges[-1] if edges else 0}, at most {counts['share']:.2f} of the honest time, {counts['megabytes']} MB", flush=True)
            if failed:
                keep.mkdir(parents=True, exist_ok=True)
                for path in artifacts.glob(f"{name}-*"):
                    (keep / path.name).write_bytes(path.read_bytes())
                lines = (done.stdout + done.stderr).splitlines()
                what = [line[:300] for line in lines if re.match(r"[\w.]*(Error|Finding|Exception)\b|==\d+== ERROR", line)]
                print(f"  inputs kept in {keep}: " + "; ".join(what or lines[-3:]), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=" ".join(NAMES))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs of findings go")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--artifacts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare)
        return 0
    if options.child:
        child(options.child, options.targets[0], options.seconds, options.artifacts)
    return 1 if campaign(options.targets or list(NAMES), options.seconds, options.keep) else 0


if __name__ == "__main__":
    sys.exit(main())
