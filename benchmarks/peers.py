"""`make bench-peers`: the same three statements proved by this program and by ezkl (halo2, KZG, zkml's most used prover), in one run.

    linear   Y = X·W                                 X [64,128], W [128,128]
    swiglu   Y = (silu(X·G) ∘ (X·U))·D               X [8,32], G and U [32,88], D [88,32]
    lora     one SGD step of A, B in  Y = X·W + X·A·B  for the loss |Y − T|²/2 with the base W fixed:
             E = Y − T,  A' = A − η·Xᵀ·E·Bᵀ,  B' = B − η·(X·A)ᵀ·E,        X, T [32,64], W [64,64], r = 4

Everything is secret on both sides; ezkl makes the result public, here it is committed. ezkl chooses its own scales (calibrate, "resources")
and makes its structured reference string anew each time, as nothing can be fetched. Here set-up is what a worker does before its first
task: the backend is loaded and a small statement proved and verified (prover/rehearsal.py). Each side runs in a process of its own, so
that its peak memory is its own; both verify what they made. Compared is the first proof of the statement; "again" is the median of
this program's next ones, as its workers prove one task after another. Needs `pip install 'verilora[peers]'`.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

STATEMENTS = ("linear", "swiglu", "lora")
SHAPES: dict[str, dict[str, tuple[int, int]]] = {
    "linear": {"x": (64, 128), "w": (128, 128)},
    "swiglu": {"x": (8, 32), "g": (32, 88), "u": (32, 88), "d": (88, 32)},
    "lora": {"x": (32, 64), "w": (64, 64), "a": (64, 4), "b": (4, 64), "t": (32, 64)},
}
PROFILE = "goldilocks-2^11"
FRACTION, WIDE = 8, 24  # bits behind the point of inputs here, bits of a rounded result
LIMB = 12  # bits of a lookup: tables of the 2^16 rows that tasks of a model have are larger than these statements
RATE = 6  # η = 2^−6
AGAIN = 9  # proofs after the first one of this program's process


def values(name: str) -> dict[str, np.ndarray]:
    """The same random reals for both, of standard deviation 1 for x and 1/√d for matrices."""
    random = np.random.default_rng(11)
    return {k: random.standard_normal(s) / (1 if k in "xt" else s[0] ** 0.5) for k, s in SHAPES[name].items()}


# ours ------------------------------------------------------------------------------------------------------------------


def graph_of(name: str) -> Any:
    """The statement as a relation."""
    from protocol.relation.graph import Graph, Tensor
    from protocol.relation.rounding import attach, declare, rescale
    from protocol.relation.tables import table_columns

    g, bound = Graph(), 1 << 12
    axes = {"x": "ti", "w": "io", "g": "if", "u": "if", "d": "fo", "a": "ir", "b": "ro", "t": "to"}
    given = {k: g.input("given", k, axes[k], s, -bound, bound) for k, s in SHAPES[name].items()}

    def times(label: str, spec: str, left: Tensor, right: Tensor) -> Tensor:
        return rescale(g, g.product(f"{label}.exact", spec, left, right), FRACTION, WIDE, label, limb=LIMB)

    if name == "linear":
        times("y", "ti,io->to", given["x"], given["w"])
    elif name == "swiglu":
        gate = g.product("gate.exact", "ti,if->tf", given["x"], given["g"])
        index = declare(g, "gate", "tf", gate.shape, LIMB)
        attach(g, gate, FRACTION, index)
        table = f"silu:{FRACTION}:{FRACTION}:14:{LIMB}"
        _, high, slopes = table_columns(table)
        a = g.commit("silu", "tf", index.shape, int(high.min()), int(high.max()))
        slope = g.commit("silu.slope", "tf", index.shape, int(slopes.min()), int(slopes.max()))
        g.hint("table", [index], [a, slope], table=table)
        g.lookup(table, index, a, slope)
        z = times("z", "tf,tf->tf", a, times("up", "ti,if->tf", given["x"], given["u"]))
        times("y", "tf,fo->to", z, given["d"])
    else:
        u = times("u", "ti,ir->tr", given["x"], given["a"])
        exact = g.linear("y.exact", "to", (1, g.product("xw", "ti,io->to", given["x"], given["w"])),
                         (1, g.product("ub", "tr,ro->to", u, given["b"])), (-(1 << FRACTION), given["t"]))
        error = rescale(g, exact, FRACTION, WIDE, "error", limb=LIMB)
        du = times("du", "to,ro->tr", error, given["b"])
        for label, spec, left, right in (("a", "ti,tr->ir", given["x"], du), ("b", "tr,to->ro", u, error)):
            change = g.product(f"d{label}.exact", spec, left, right)
            step = rescale(g, change, FRACTION + RATE, WIDE, f"d{label}", limb=LIMB)
            g.linear(f"{label}.next", axes[label], (1, given[label]), (-1, step))
    return g


def ours(name: str) -> dict[str, float]:
    """Commit, prove, verify; bits from the sources of error."""
    from protocol.channel import VerifyingChannel
    from protocol.field import GOLDILOCKS
    from protocol.layout import CommitmentLayout
    from protocol.params import profile
    from protocol.schedule.opening import Committed
    from protocol.schedule.task import TaskShape, run_task
    from prover.argument.prove import prove_task
    from prover.backend import select
    from prover.commitment.commit import commit
    from prover.executor.evaluate import check, evaluate
    from prover.executor.reference import ReferenceOps
    from prover.randomness import fresh_seed
    from prover.rehearsal import rehearse

    start, params = time.perf_counter(), profile(PROFILE)
    backend = select("cpu")  # as the others, on this processor
    rehearse(backend, params)
    setup, graph = time.perf_counter() - start, graph_of(name)
    arrays = {k: np.clip(np.rint(v * (1 << FRACTION)), -(1 << 12), 1 << 12).astype(np.int64) for k, v in values(name).items()}
    found = evaluate(graph, {("given", k): v for k, v in arrays.items()}, graph.tensors, ReferenceOps())
    check(graph, found)
    tensors = [found[t.index] for t in graph.tensors]
    layout, seconds = CommitmentLayout.pack([(k, v.shape) for k, v in arrays.items()], params.code(1)), list[float]()
    for _ in range(1 + AGAIN):
        start = time.perf_counter()
        shape, given = TaskShape(graph, GOLDILOCKS), commit(backend, layout, arrays, fresh_seed())
        proof = prove_task(backend, shape, b"peers", [("given", given)], tensors, {}, params, fresh_seed(), lambda: None)
        seconds.append(time.perf_counter() - start)
    start, channel = time.perf_counter(), VerifyingChannel(GOLDILOCKS, proof)
    run_task(channel, TaskShape(graph_of(name), GOLDILOCKS), b"peers", [Committed("given", given.layout, given.root)], params, {}, None)
    channel.finish()
    verified = time.perf_counter() - start
    return {"setup": setup, "prove": seconds[0], "again": median(seconds[1:]), "verify": verified, "bytes": len(proof)}


# ezkl ------------------------------------------------------------------------------------------------------------------


def module_of(name: str) -> Any:
    """The statement as a torch module whose weights are its parameters and whose input is x (and t)."""
    import torch

    held = {k: torch.tensor(v, dtype=torch.float32) for k, v in values(name).items()}

    class Statement(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for key in SHAPES[name].keys() - {"x", "t"}:
                setattr(self, key, torch.nn.Parameter(held[key], requires_grad=False))

        def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> Any:
            if name == "linear":
                return x @ self.w
            if name == "swiglu":
                gate = x @ self.g
                return (gate * torch.sigmoid(gate) * (x @ self.u)) @ self.d
            u = x @ self.a
            error = x @ self.w + u @ self.b - t
            return self.a - (x.T @ (error @ self.b.T)) * 2.0**-RATE, self.b - (u.T @ error) * 2.0**-RATE

    given = tuple(held[key] for key in ("x", "t") if key in held)
    return Statement().eval(), given


def theirs(name: str) -> dict[str, float]:
    """ezkl from ONNX file to verified proof."""
    import ezkl
    import torch

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        where: Callable[[str], str] = lambda file: str(folder / file)  # noqa: E731 - a short name for what stands in every call
        module, given = module_of(name)
        torch.onnx.export(module, given, where("m.onnx"), opset_version=18, dynamo=False)
        (folder / "in.json").write_text(json.dumps({"input_data": [g.flatten().tolist() for g in given]}))
        run = ezkl.PyRunArgs()
        run.input_visibility, run.param_visibility, run.output_visibility = "private", "private", "public"
        start = time.perf_counter()
        ezkl.gen_settings(where("m.onnx"), where("s.json"), py_run_args=run)
        _now(ezkl.calibrate_settings(where("in.json"), where("m.onnx"), where("s.json"), "resources"))
        ezkl.compile_circuit(where("m.onnx"), where("m.ezkl"), where("s.json"))
        ezkl.gen_srs(where("srs"), json.loads((folder / "s.json").read_text())["run_args"]["logrows"])
        ezkl.setup(where("m.ezkl"), where("vk"), where("pk"), where("srs"))
        ready = time.perf_counter()
        _now(ezkl.gen_witness(where("in.json"), where("m.ezkl"), where("w.json")))
        ezkl.prove(where("w.json"), where("m.ezkl"), where("pk"), where("proof.json"), where("srs"))
        proved = time.perf_counter()
        if not ezkl.verify(where("proof.json"), where("s.json"), where("vk"), where("srs")):
            raise RuntimeError("ezkl rejects its own proof")
        done = time.perf_counter()
        size = len(bytes(json.loads((folder / "proof.json").read_text())["proof"]))
        return {"setup": ready - start, "prove": proved - ready, "verify": done - proved, "bytes": size}


def _now(result: Any) -> Any:
    """Some of ezkl's calls are coroutines in some of its releases."""
    import asyncio
    import inspect

    async def wait() -> Any:
        return await result

    return asyncio.run(wait()) if inspect.isawaitable(result) else result


def apart(side: str, name: str) -> dict[str, float]:
    """One side's figures, from a process of its own; {} with the reason on standard error if it cannot."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.peers", "--one", side, name], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{side} {name}: {done.stderr.strip().splitlines()[-1][:300]}", file=sys.stderr)
        return {}
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--only", choices=STATEMENTS, help="one statement instead of all")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        side, name = arguments.one
        found = (ours if side == "verilora" else theirs)(name)
        print(json.dumps(found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
        return
    print("statement  prover      set-up/s   prove/s   again/s  verify/s     bytes  peak/GB")
    for name in [arguments.only] if arguments.only else STATEMENTS:
        both = {side: apart(side, name) for side in ("verilora", "ezkl")}
        for side, f in both.items():
            if f:
                seconds = f"{f['setup']:10.2f} {f['prove']:9.3f} {f.get('again', math.nan):9.3f} {f['verify']:9.3f}"
                print(f"{name:10} {side:9} {seconds} {f['bytes']:9.0f} {f['peak'] / 1e9:8.2f}")
        if all(both.values()):
            mine, other = both["verilora"], both["ezkl"]
            proving = f"prove {other['prove'] / mine['prove']:.0f} × (aim 1,000), again {other['prove'] / mine['again']:.0f} ×"
            both_parts = [side["prove"] + side["setup"] for side in (other, mine)]
            print(f"{name:10} ratio     {proving}, with set-up {both_parts[0] / both_parts[1]:.0f} ×, "
                  f"verify {other['verify'] / mine['verify']:.2f} ×, bytes {mine['bytes'] / other['bytes']:.1f} ×, "
                  f"memory {other['peak'] / mine['peak']:.1f} × less")


if __name__ == "__main__":
    main()
