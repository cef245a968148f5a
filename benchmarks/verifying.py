"""`make bench-verify`: processor seconds that one core needs to verify a layer task, from the demonstration's size to 13B on 2,048 tokens.

    python -m benchmarks.verifying                    the list
    python -m benchmarks.verifying NAME TOKENS        one layer of a model in benchmarks/shapes.py, and the functions that take longest

What a verifier does follows from the shape of a task alone, so no prover is needed to measure it at sizes that would fill a machine:
prover/simulator.py makes a proof without a witness, and `verify_task` accepts it when its transcript draws the challenges that the
simulator chose. It reads, hashes and computes what it would for a prover's proof (`make bench` verifies one of those).

The task is layer 1 of 3 in window 1 of 3 of one step: AdamW, rank 8 on all projections, every commitment private, so that it opens
eight trees. Every size is verified in a process of its own with one thread, which imports what an auditor's does and the programmed
transcript; "first" is that process's first task, tables of the relation (exp, silu, cos and sin) included, "next" the best of three more.
"""

import argparse
import cProfile
import json
import os
import pstats
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from protocol.channel import VerifyingChannel
from protocol.manifest import Lora, RunManifest, base_commitments
from protocol.model_config import PROJECTIONS
from protocol.optimizer import Optimizer
from protocol.params import profile
from protocol.relation.graph import Committed
from protocol.schedule.task import TaskShape
from protocol.statement import BUDGETS, Task, commitment_layout, statement_content, task_list
from prover.randomness import fresh_seed
from prover.simulator import Answers, ChosenChallenges, ProgrammedTranscript, simulate_commitment, simulate_task
from verifier.task import Evidence, verify_task

POINTS = (
    ("tinyllama-1.1b", 16), ("tinyllama-1.1b", 384), ("tinyllama-1.1b", 2048),
    ("llama-2-7b", 512), ("llama-2-7b", 2048), ("llama-2-13b", 512), ("llama-2-13b", 2048),
)
PROFILE = "goldilocks-2^16"
CALIBRATED = 8  # tokens whose magnitudes give the exponents: the shape of a task does not depend on them but for a limb
VOCABULARY = 512  # of the model that is calibrated: a layer task knows none
REPEATS = 3


@dataclass(frozen=True)
class Case:
    """One task with a simulated proof and the programme under which it verifies."""

    manifest: RunManifest
    task: Task
    roots: dict[str, bytes]
    ids: dict[str, str]
    evidence: Evidence
    answers: Answers
    committed: int
    fractions: int

    def verify(self) -> None:
        """VerificationError unless the proof is accepted."""
        channel = partial(VerifyingChannel, transcript=ProgrammedTranscript(self.answers))
        with mock.patch("verifier.task.VerifyingChannel", channel):
            verify_task(self.manifest, self.task, self.roots, self.ids, self.evidence)


@dataclass(frozen=True)
class Figures:
    """Sizes of a task; processor seconds of verifying it on one thread, and the process's most memory."""

    committed: int
    fractions: int
    proof_bytes: int
    first_seconds: float
    next_seconds: float
    peak_bytes: int


def manifest_of(name: str, tokens: int) -> RunManifest:
    """Three layers and three windows of one step, with the exponents that one layer calibrates to."""
    from benchmarks.shapes import SHAPES, write_folder
    from prover.executor.prepare import prepare
    from prover.files.dataset import TokenisedDataset
    from prover.files.hf_model import open_model

    ids = np.random.default_rng(5).integers(0, VOCABULARY, (1, CALIBRATED + 1))
    dataset = TokenisedDataset(ids, np.ones((1, CALIBRATED), dtype=np.int64), "00" * 32, 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(write_folder(Path(folder), replace(SHAPES[name], num_hidden_layers=1, vocab_size=VOCABULARY)))
        one = prepare(
            model, dataset, name="verifying", lora=Lora(8, 16, PROJECTIONS), optimizer=Optimizer(kind="adamw", learning_rate="0.001"),
            batch_size=1, steps=1, window_steps=1, seed=7, publish_loss=True, base_visibility="private", profile=PROFILE,
            calibration_steps=1,
        ).manifest
    longer = (tokens // CALIBRATED).bit_length() - 1  # sums over tokens grow with their number
    exponents = {key: f - longer if key.endswith(".grad") else f for key, f in one.exponents.items()}
    exponents |= {f"dx/{n}": one.exponents["dx/1"] for n in (2, 3)}
    for part in ("layer/{}/", "base/{}/"):
        first = part.format(0)
        own = {key.removeprefix(first): f for key, f in exponents.items() if key.startswith(first)}
        exponents |= {part.format(n) + key: f for n in (1, 2) for key, f in own.items()}
    several = replace(one.model, layers=3)
    return replace(
        one, model=several, steps=3, sequence_length=tokens, loss_tokens=(tokens,) * 3, exponents=exponents,
        commitments=dict.fromkeys(base_commitments(several), "00" * 32), budgets=dict.fromkeys(BUDGETS, 3),
    )


def simulated(manifest: RunManifest) -> Case:
    """The middle layer of the middle window."""
    (task,) = (t for t in task_list(manifest) if (t.kind, t.window, t.layer) == ("layer", 1, 1))
    params = profile(manifest.profile)
    shape = TaskShape(task.graph(manifest), params.field)
    chosen = ChosenChallenges(params.field, fresh_seed())
    positions = chosen.positions(params.n, params.queries)
    found = {name: simulate_commitment(commitment_layout(manifest, name), positions, fresh_seed()) for _, name in task.commitments}
    ids, roots = {str(name): item.id for name, item in found.items()}, {str(name): item.root for name, item in found.items()}
    published = {item.name: np.zeros(item.tensor.shape, dtype=np.int64) for item in shape.graph.published}
    content = statement_content(manifest, task, shape.graph.digest(), ids, published)
    inputs = [(role, found[name]) for role, name in task.commitments]
    made = simulate_task(shape, content, inputs, params, published, chosen, fresh_seed())
    cells = sum(t.cells for t, op in zip(shape.graph.tensors, shape.graph.ops, strict=True) if isinstance(op, Committed))
    return Case(manifest, task, roots, ids, Evidence(content, made.proof), made.answers, cells, sum(plan.fractions for plan in shape.plans))


def measure(manifest: RunManifest, profiled: bool) -> Figures:
    """Verify in this process what another one simulates."""
    with ProcessPoolExecutor(1) as pool:
        case = pool.submit(simulated, manifest).result()
    seconds = []
    for _ in range(1 + REPEATS):
        start = time.process_time()
        case.verify()
        seconds.append(time.process_time() - start)
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())  # getrusage counts the parent's before exec
    if profiled:
        with cProfile.Profile() as calls:
            case.verify()
        pstats.Stats(calls, stream=sys.stderr).sort_stats("cumulative").print_stats(40)
    return Figures(case.committed, case.fractions, len(case.evidence.proof), seconds[0], min(seconds[1:]), 1024 * int(kilobytes))


def point(name: str, tokens: int, profiled: bool = False) -> Figures:
    """`measure` in a fresh process with one thread."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.verifying", "--measure", *["--profile"] * profiled]
    done = subprocess.run(command, env=environment, input=manifest_of(name, tokens).to_json(), stdout=subprocess.PIPE, check=True)
    return Figures(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verifying")
    parser.add_argument("point", nargs="*", metavar="NAME TOKENS")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # the manifest is on standard input
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(asdict(measure(RunManifest.from_json(sys.stdin.buffer.read()), arguments.profile))))
        return
    if len(arguments.point) not in (0, 2):
        parser.error("a name and a number of tokens, or neither")
    points = [(arguments.point[0], int(arguments.point[1]))] if arguments.point else POINTS
    print("layer of                tokens  values/2^26  lookups/2^26  proof/MB  first/s  next/s  peak/MB")
    for name, tokens in points:
        f = point(name, tokens, bool(arguments.point))
        sizes = f"{name:22} {tokens:7} {f.committed / 2**26:12.2f} {f.fractions / 2**26:13.2f} {f.proof_bytes / 1e6:9.2f}"
        print(f"{sizes} {f.first_seconds:8.2f} {f.next_seconds:7.2f} {f.peak_bytes / 1e6:8.0f}", flush=True)


if __name__ == "__main__":
    main()
