"""`make bench`: prints each figure in its own unit and as a ratio to the bound that this machine's rates imply.

Bounds, per committed value at rate 1/4: 17.5 products, as transforms of 2^14 words take in passes of radix 8, 8, 16 and 16 (3 for the
inverse transform, whose first pass has none, 4·(2·7/8 + 2·15/16) for the forward ones; radices are made of shifts), 32 bytes of
SHA-256; per lookup: 9 products in K, each four in F (docs/log.md, "The leaves of the lookup tree
as integers": 1.5 to build the tree, 7.5 for all rounds of one whose numerators are constant at the leaves and half of whose leaves
are free; products with 16-bit integers are not counted). Ratio = bound / measured: 1 would mean that nothing but these
multiplications and hashes takes time.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.machine import measure_machine
from benchmarks.parts import TaskFigures, commit_figures, layer_task, tree_figures
from protocol.manifest import Lora, StepRange
from protocol.model_config import PROJECTIONS
from protocol.optimizer import Optimizer
from protocol.params import profile
from prover.backend import select
from prover.executor.prepare import prepare
from prover.executor.trainer import Trainer
from prover.files.dataset import load_dataset
from prover.files.hf_model import open_model
from prover.witness.task import task_values

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PROFILE = "goldilocks-2^14"
PRODUCTS_PER_VALUE = 3 + 4 * (2 * 7 / 8 + 2 * 15 / 16)
PRODUCTS_PER_LOOKUP = 9 * 4


def demo_layer(backend: object) -> TaskFigures:
    """The task of layer 1, four steps of 4 × 64 tokens, rank 8 on all projections, of the example model."""
    model = open_model(EXAMPLES / "tiny-llama")
    dataset = load_dataset(EXAMPLES / "haiku.jsonl", EXAMPLES / "tiny-llama", 64)
    ready = prepare(
        model, dataset, name="bench", lora=Lora(8, 16, PROJECTIONS), optimizer=Optimizer(kind="sgd", momentum="0.9", learning_rate="0.05"),
        batch_size=4, steps=8, window_steps=4, seed=7, publish_loss=True, base_visibility="private", profile=PROFILE,
    )
    trainer = Trainer(ready.manifest, ready.base, ready.tokens, ready.mask)
    window = StepRange(0, 4)
    trace = trainer.run_window(window)
    inputs = trainer.layer_inputs(1, {}) | {("x_in", "x"): trace.x[1], ("dx_in", "dx"): trace.dx[2]}
    start = time.perf_counter()
    graph, values = task_values(ready.manifest, "layer", window, 1, inputs)
    return layer_task(backend, graph, values, time.perf_counter() - start, PROFILE)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    backend, params = select("cpu"), profile(PROFILE)  # processor time against this processor's own rates; a GPU has benchmarks.gpu
    machine = measure_machine(backend)
    committing = commit_figures(backend, params.code(2), 64)
    tree = tree_figures(backend, 22)
    task = demo_layer(backend)
    value_bound = PRODUCTS_PER_VALUE / machine.multiplications + 32 / machine.sha256_bytes
    lookup_bound = PRODUCTS_PER_LOOKUP / machine.multiplications
    kernels = sum(task.kernels.values())
    figures = {
        "machine": machine.name, "threads": machine.threads, "backend": backend.name,
        "multiplications_per_s": machine.multiplications, "sha256_bytes_per_s": machine.sha256_bytes,
        "committed_values_per_s": 1 / committing.seconds, "committed_values_ratio": value_bound / committing.seconds,
        "committing": vars(committing),
        "lookups_per_s": 1 / tree.seconds, "lookups_ratio": lookup_bound / tree.seconds,
        "tree": vars(tree),
        "layer_task": vars(task),
        "layer_task_ratio_to_kernels": task.prove_processor / kernels,
        "verify_to_prove": task.verify_seconds / task.prove_seconds,
    }
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    print(f"{machine.name}, {machine.threads} threads, backend {backend.name}")
    print(f"  multiplications (Goldilocks)  {machine.multiplications / 1e6:9.0f} M/s")
    print(f"  SHA-256                       {machine.sha256_bytes / 1e6:9.0f} MB/s")
    print(f"  committed values, rate 1/4    {1e-6 / committing.seconds:9.1f} M/s   ratio to bound {value_bound / committing.seconds:.2f}")
    print(f"    processor time              {committing.encode_ns:9.1f} ns encoding + {committing.hash_ns:.1f} ns hashing")
    print(f"  lookups, tree of 2^22         {1e-6 / tree.seconds:9.1f} M/s   ratio to bound {lookup_bound / tree.seconds:.2f}")
    print(f"    processor time              {tree.build_ns:9.1f} ns building + {tree.rounds_ns:.1f} ns rounds")
    print(f"    peak memory                 {tree.peak_bytes:9.0f} bytes a lookup")
    print(f"  layer task of the demo        {task.committed / 1e6:.2f} M values, {task.lookups / 1e6:.2f} M lookups")
    print(f"    witness {task.witness_seconds:.2f} s, prove {task.prove_seconds:.2f} s, verify {task.verify_seconds:.2f} s")
    print(f"    prove, processor time {task.prove_processor:.2f} s, {task.prove_processor / kernels:.2f} × its kernels: "
          + ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in task.kernels.items()))
    print(f"    proof {task.proof_bytes} bytes: " + ", ".join(f"{k} {v}" for k, v in sorted(task.parts.items(), key=lambda x: -x[1])))


if __name__ == "__main__":
    main()
