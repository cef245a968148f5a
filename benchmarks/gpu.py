"""`make bench-gpu`: the device's own rates, the kernels, one layer task and whole steps of real shapes, each proof verified.

    python -m benchmarks.gpu --backend cuda --shape llama-2-7b --tokens 512 --steps whole --limit 500
    python -m benchmarks.gpu --backend cpu --shape toy --tokens 16

    rates      copy bandwidth, products in F (the best of inner products and transforms), compressions of SHA-256, by the prover's kernels
    fixed      microseconds of a launch, a sum with its wait, a small copy there and back (launches.py counts them)
    kernels    seconds of a unit of each kind of work (prover/cost/rates.py), cells and leaves a second, share of the bound
    layer      layer 0 of one step: forward, backward, AdamW update
    together   with --provers N: the tasks of the step once more, by N processes side by side (crew.py)
    whole      embedding, every layer, head and loss: all proofs of one step

Share of the bound = bound (prover/cost/bound.py) over these rates ÷ seconds of the proof with its inputs. Weights are random
(shapes.py) and read layer by layer. With --limit no task is begun that would probably end later. Imports nothing of storage or
orchestration.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crew import prove_together
from benchmarks.machine import cpu_name, median_seconds, random_elements
from benchmarks.shapes import SHAPES, Shape
from benchmarks.stage import Measured, Stage, foretold, stage
from protocol.params import PROFILES, Params, profile
from protocol.statement import Task
from prover.backend import NAMES, select
from prover.backend.base import Backend
from prover.cost.bound import Bound, bound
from prover.cost.machine import describe, memory_bytes, reset_peak
from prover.cost.rates import measure
from prover.cost.work import Place, Work

TOY = Shape(64, 176, 2, 4, 2, 128)
STEPS = ("kernels", "layer", "whole")
SIZES, LARGE = (24, 20, 20), {"cuda": (28, 24, 26)}  # binary logarithms of words copied, terms of a sum, cells encoded at a time
BYTES = (16, 32, 72)  # that each of these takes


@dataclass(frozen=True)
class DeviceRates:
    """A second of the device."""

    bandwidth: float  # bytes read and written by a copy
    products: float
    compressions: float

    def share(self, least: Bound, seconds: float) -> float:
        return least.seconds(self.bandwidth, self.products, self.compressions) / seconds


def synchronised(backend: Backend, work: Callable[[], object]) -> Callable[[], None]:
    """`work`, finished on the device when it returns."""
    wait = backend.xp.cuda.runtime.deviceSynchronize if backend.name == "cuda" else None

    def run() -> None:
        work()
        if wait:
            wait()

    return run


def copy_bandwidth(backend: Backend, words: int) -> float:
    """Bytes read and written a second."""
    source = backend.xp.zeros(words, dtype=np.uint64)
    target = backend.xp.empty_like(source)
    return 2 * 8 * words / median_seconds(synchronised(backend, lambda: backend.xp.copyto(target, source)))


def sizes(backend: Backend) -> tuple[int, ...]:
    """As large as they may be, each in a quarter of the memory."""
    wanted = LARGE.get(backend.name, SIZES)
    return tuple(min(log_size, (backend.memory // 4 // each).bit_length() - 1) for log_size, each in zip(wanted, BYTES, strict=True))


def device_rates(backend: Backend, params: Params) -> DeviceRates:
    """Measured by the prover's own kernels."""
    words, terms, cells = sizes(backend)
    bandwidth = copy_bandwidth(backend, 1 << words)
    products = []
    for log_size in sorted({min(16, terms), min(18, terms), terms}):
        a, b = (backend.to_device(random_elements((2, 1 << log_size), seed)) for seed in (1, 2))
        products.append(4 * (1 << log_size) / median_seconds(synchronised(backend, lambda a=a, b=b: backend.kdot(a, b))))  # type: ignore[misc]
    code, rows = params.code(1), max(8, (1 << cells) // params.ell)
    message, rho = (backend.to_device(random_elements((rows, n))) for n in (code.ell, code.blinding))
    butterflies = rows * code.ell * ((code.ell.bit_length() - 1) / 2 + 2 * (code.n.bit_length() - 1))
    products.append(butterflies / median_seconds(synchronised(backend, lambda: backend.encode(code, message, rho)), 3))
    codeword, salts = backend.encode(code, message, rho), backend.to_device(np.zeros((code.n, 32), dtype=np.uint8))
    blocks = code.n * (1 + -(-(8 * rows + 9) // 64))
    compressions = blocks / median_seconds(synchronised(backend, lambda: backend.hash_columns(codeword, salts)), 3)
    return DeviceRates(bandwidth, max(products), compressions)


def fixed_costs(backend: Backend, times: int = 1000) -> dict[str, float]:
    """Microseconds by the host's clock, one after the other as in a proof."""
    held, integers = np.zeros((2, 16), dtype=np.uint64), np.zeros(16, dtype=np.int64)
    there, numbers, out = backend.to_device(held), backend.to_device(integers), backend.xp.empty(16, dtype=np.uint64)
    works: dict[str, Callable[[], object]] = {
        "launch": lambda: backend.embed(numbers, out), "sum": lambda: backend.kdot(there, there),
        "copy there": lambda: backend.to_device(held), "copy back": lambda: backend.to_host(there),
    }
    found = {}
    for name, work in works.items():
        repeated = synchronised(backend, lambda work=work: [work() for _ in range(times)])  # type: ignore[misc]
        found[name] = 1e6 / times * median_seconds(repeated)
    return found


def kernels(backend: Backend, params: Params, rates: DeviceRates) -> dict[str, Any]:
    """A second's worth of each unit of work, and the share of the bound of the two that cost most."""
    unit = measure(backend, params).unit
    cells = Work(encoded=1.0, hashed=params.n / params.ell / 8)  # of a tall commitment: a compression for eight words
    seconds = {"cell committed": unit["encoded"] + cells.hashed * unit["hashed"], "leaf": unit["leaves"]}
    works = {"cell committed": cells, "leaf": Work(leaves=1.0)}
    found: dict[str, Any] = {
        name: {"per_second": 1 / spent, "share": rates.share(bound(works[name], params), spent)} if spent else {"per_second": None}
        for name, spent in seconds.items()
    }
    others = ("folded", "tables", "weighted", "opened", "counted", "evaluated", "tree_rounds", "product_rounds", "slots")
    return found | {name: {"per_second": 1 / unit[name] if unit[name] else None} for name in others}


def row(task: Task, s: Stage, found: Measured, rates: DeviceRates) -> dict[str, Any]:
    """One task's figures."""
    told = foretold(s.manifest, task, s.params, Place.of(s.backend.name, s.backend.memory))
    spent = found.seconds["inputs"] + found.seconds["prove"]
    least = bound(told.parts["inputs"] + told.parts["prove"], s.params)
    return {
        **asdict(found), "values_per_second": found.valid / spent, "padded_per_second": found.padded / spent,
        "lookups_per_second": found.lookups / spent, "share": rates.share(least, spent), "foretold_memory": told.memory.peak,
    }


HEAD = (f"{'task':14}{'values/M':>9}{'padded/M':>9}{'lookups/M':>10}{'inputs':>8}{'witness':>8}{'prove':>8}{'verify':>8}"
        f"{'Mval/s':>8}{'Mpad/s':>8}{'Mlook/s':>8}{'proof MB':>9}{'peak':>9}{'bound':>7}")


def line(r: dict[str, Any]) -> str:
    t = r["seconds"]
    return (f"{r['task']:14}{r['valid'] / 1e6:9.2f}{r['padded'] / 1e6:9.2f}{r['lookups'] / 1e6:10.2f}{t['inputs']:8.2f}{t['evaluate']:8.2f}"
            f"{t['prove']:8.2f}{t['verify']:8.2f}{r['values_per_second'] / 1e6:8.2f}{r['padded_per_second'] / 1e6:8.2f}"
            f"{r['lookups_per_second'] / 1e6:8.2f}{r['proof_bytes'] / 1e6:9.2f}{describe(r['peak_bytes']):>9}{r['share']:7.0%}")


def step(
    name: str, shape: Shape, tokens: int, arguments: argparse.Namespace, backend: Backend, folder: Path
) -> dict[str, Any]:
    """One shape at one length: prepared, trained, its tasks proved and verified as far as the limit allows."""
    begun, params = time.monotonic(), profile(arguments.profile)
    s = stage(shape, tokens, params.name, backend, folder, keep=memory_bytes("cpu") // 4)
    prepared = time.monotonic() - begun
    _ = s.trace
    layers = shape.num_hidden_layers
    print(f"{name}, {layers} layers, {tokens} tokens: prepared in {prepared:.1f} s, step trained in {s.train_seconds:.2f} s")
    rates = device_rates(backend, params)
    tasks = s.tasks() if arguments.steps == "whole" else [task for task in s.tasks(("layer",)) if task.layer == 0]
    print(HEAD)
    rows: list[dict[str, Any]] = []
    longest = 0.0
    for task in tasks:
        if time.monotonic() - begun + longest > arguments.limit:
            print(f"stopped by --limit after {len(rows)} of {len(tasks)} tasks")
            break
        at = time.monotonic()
        rows.append(row(task, s, s.prove(task), rates))
        longest = max(longest, time.monotonic() - at)
        print(line(rows[-1]), flush=True)
    total = {key: sum(r["seconds"][key] for r in rows) for key in ("inputs", "evaluate", "prove", "verify")}
    sums = {key: sum(r[key] for r in rows) for key in ("valid", "padded", "lookups", "proof_bytes")}
    spent = total["inputs"] + total["prove"]
    if rows:
        print(f"all {len(rows)} of {len(tasks)}: train {s.train_seconds:.2f} s, witness {total['evaluate']:.2f} s, "
              f"prove {spent:.2f} s, verify {total['verify']:.2f} s")
        print(f"  {sums['valid'] / 1e6 / spent:.1f} M values/s ({sums['padded'] / 1e6 / spent:.1f} M padded), "
              f"{sums['lookups'] / 1e6 / spent:.1f} M lookups/s, {describe(sums['proof_bytes'])} of proofs")
    return {"shape": name, "layers": layers, "tokens": tokens, "train_seconds": s.train_seconds, "tasks": rows,
            "of": len(tasks), "seconds": total, **sums} | together(shape, tokens, arguments, backend, folder)


def together(shape: Shape, tokens: int, arguments: argparse.Namespace, backend: Backend, folder: Path) -> dict[str, Any]:
    """The same step by several provers, if they are asked for."""
    if arguments.provers < 2:
        return {}
    kinds = ("embed", "layer", "update", "head") if arguments.steps == "whole" else ("layer",)
    reset_peak(backend.name)  # what this process does not use any more is theirs
    found = prove_together((shape, tokens, arguments.profile, backend.name, folder, kinds), arguments.provers)
    parts = {key: sum(r["seconds"][key] for r in found["tasks"]) for key in ("inputs", "evaluate", "prove", "verify")}
    print(f"by {found['provers']} provers side by side: {found['seconds']:.2f} s on the clock for {len(found['tasks'])} tasks, witnesses "
          f"and verification included; {', '.join(f'{key} {spent:.2f}' for key, spent in parts.items())} s added up")
    return {"together": found}


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Print the tables; everything that was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--backend", choices=NAMES, default="auto")
    parser.add_argument("--shape", choices=("toy", *SHAPES), action="append", help="may be given several times; default: all real ones")
    parser.add_argument("--tokens", type=int, action="append", help="may be given several times; default: 512 and 2048")
    parser.add_argument("--layers", type=int, default=0, help="so many layers instead of all")
    parser.add_argument("--steps", choices=STEPS, default="whole")
    parser.add_argument("--provers", type=int, default=1, help="so many processes prove the step's tasks side by side as well")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds for one shape at one length")
    parser.add_argument("--profile", choices=PROFILES, default="goldilocks-2^16")
    parser.add_argument("--folder", type=Path, help="where weights are written and found again; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write every figure here")
    arguments = parser.parse_args(words)
    backend, params = select(arguments.backend), profile(arguments.profile)
    rates = device_rates(backend, params)
    print(f"{_device(backend)}: copy {rates.bandwidth / 1e9:.1f} GB/s, {rates.products / 1e9:.2f} G products/s, "
          f"{rates.compressions * 64 / 1e9:.2f} GB/s of SHA-256; {params.name}")
    fixed = fixed_costs(backend)
    print("  " + ", ".join(f"{name} {microseconds:.1f} µs" for name, microseconds in fixed.items()))
    found: dict[str, Any] = {
        "backend": backend.name, "rates": asdict(rates), "fixed": fixed, "kernels": kernels(backend, params, rates), "steps": []}
    for name, figures in found["kernels"].items():
        share = f"   {figures['share']:.0%} of the bound" if "share" in figures else ""
        speed = "too fast to tell" if figures["per_second"] is None else f"{figures['per_second'] / 1e6:12.3f} M/s"
        print(f"  {name:16}{speed}{share}")
    if arguments.steps != "kernels":
        for name in arguments.shape or list(SHAPES):
            shape = TOY if name == "toy" else SHAPES[name]
            shape = replace(shape, num_hidden_layers=arguments.layers or shape.num_hidden_layers)
            with tempfile.TemporaryDirectory() as temporary:
                folder = (arguments.folder or Path(temporary)) / f"{name}-{shape.num_hidden_layers}"
                for tokens in arguments.tokens or (512, 2048):
                    found["steps"].append(step(name, shape, tokens, arguments, backend, folder))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return found


def _device(backend: Backend) -> str:
    if backend.name != "cuda":
        return f"{cpu_name()}, backend {backend.name}"
    return str(backend.xp.cuda.runtime.getDeviceProperties(0)["name"].decode())


if __name__ == "__main__":
    main()
