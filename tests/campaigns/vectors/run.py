"""What this implementation makes of a vector: {"output": …} or {"reason": …}.

Reasons are those of VerificationError; beside them "relation-error" (a relation that cannot be built), "refused" (a value that a
constructor does not take) and "unsatisfied" (committed values that break an assertion of the relation).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from protocol import merkle
from protocol.channel import CountingChannel, Transcript, VerifyingChannel
from protocol.code import Code
from protocol.encoding import parse_canonical, tagged_digest
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS as F
from protocol.field import U64
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest
from protocol.model_config import ModelConfig
from protocol.optimizer import Optimizer
from protocol.relation.graph import Graph, RelationError
from protocol.relation.rounding import attach, declare, divide, isqrt, range_check, signed_check
from protocol.relation.tables import table_columns
from protocol.rope import query_tables, rope_tables
from protocol.statement import commitment_layout, statement_id, task_list
from protocol.streams import CounterStream, initial_lora_a
from prover.executor.evaluate import RangeOverflow, RelationBroken, check, evaluate
from prover.executor.reference import ReferenceOps
from verifier.order import compare_order
from verifier.sample import Sample

Input = dict[str, Any]
OPS: dict[str, Callable[[Input], Any]] = {}


def op(name: str) -> Callable[[Callable[[Input], Any]], Callable[[Input], Any]]:
    def register(function: Callable[[Input], Any]) -> Callable[[Input], Any]:
        OPS[name] = function
        return function

    return register


def answer(vector: dict[str, Any], suite: Mapping[str, Any]) -> dict[str, Any]:
    """The output of a vector's operation, or the reason why there is none. `suite` has the vectors by id: an input with "of" is
    that vector's with some values replaced."""
    given = vector["input"]
    given = suite[given["of"]]["input"] | given if "of" in given else given
    try:
        return {"output": OPS[vector["op"]](given)}
    except VerificationError as error:
        return {"reason": error.reason}
    except RelationError:
        return {"reason": "relation-error"}
    except (RelationBroken, RangeOverflow):
        return {"reason": "unsatisfied"}
    except (ValueError, TypeError, ZeroDivisionError):
        return {"reason": "refused"}


def words(values: Any) -> U64:
    return np.array([int(x) for x in values], dtype=np.uint64)


def pairs(values: Any) -> U64:
    """[[c0, c1], …] to K (2, n)."""
    return words([x for pair in values for x in pair]).reshape(-1, 2).T.copy()


def texts(values: Any) -> Any:
    """Arrays as nested lists of decimal strings."""
    return [texts(x) for x in values] if isinstance(values, list) else str(values)


def kpairs(values: U64) -> Any:
    return texts(values.reshape(2, -1).T.tolist())


# field, code, tree ---------------------------------------------------------------------------------

OPS |= {
    "field.mul": lambda x: texts(F.mul(words(x["a"]), words(x["b"])).tolist()),
    "field.kmul": lambda x: kpairs(F.kmul(pairs(x["a"]), pairs(x["b"]))),
    "field.inverse": lambda x: kpairs(F.ext(int(x["a"][0]), int(x["a"][1])).inverse().array()),
    "field.embed": lambda x: texts(F.embed(np.array([int(v) for v in x["values"]], dtype=np.int64)).tolist()),
    "field.eq_table": lambda x: kpairs(F.eq_table(pairs(x["point"]))),
    "field.root_of_unity": lambda x: str(F.root_of_unity(x["k"])),
    "field.from_bytes": lambda x: texts(F.from_bytes(bytes.fromhex(x["data"])).tolist()),
    "field.kfrom_bytes": lambda x: kpairs(F.kfrom_bytes(bytes.fromhex(x["data"]))),
    "field.ext_from_bytes": lambda x: kpairs(F.ext_from_bytes(bytes.fromhex(x["data"])).array()),
    "encoding.parse": lambda x: parse_canonical(bytes.fromhex(x["data"]), "vector"),
    "encoding.digest": lambda x: tagged_digest(x["tag"], *(bytes.fromhex(p) for p in x["parts"])).hex(),
    "merkle.leaf": lambda x: merkle.leaf_digest(bytes.fromhex(x["salt"]), bytes.fromhex(x["column"])).hex(),
    "streams.permutation": lambda x: CounterStream(x["label"]).permutation(x["n"]).tolist(),
    "streams.below": lambda x: CounterStream(x["label"]).below(x["n"], x["count"]).tolist(),
    "streams.lora_a": lambda x: initial_lora_a(x["seed"], x["layer"], x["module"], tuple(x["shape"])).tolist(),
    "streams.sample": lambda x: Sample(x["beacon"], x["size"]).draw(x["manifest"], x["tasks"]),
    "tables.rows": lambda x: [[int(c[i]) for c in table_columns(x["table"])] for i in x["rows"]],
    "model.new": lambda x: list(ModelConfig.from_manifest(x["model"]).projection_shape("q_proj")),
    "manifest.parse": lambda x: RunManifest.from_json(x["manifest"].encode()).digest(),
    "order.compare": lambda x: bool(compare_order(RunManifest.from_json(x["manifest"].encode()), x["order"])),
}


def code_of(x: Input) -> Code:
    return Code(F, x["ell"], x["n"], x["blinding"])


OPS |= {
    "code.new": lambda x: code_of(x).length,
    "code.encode": lambda x: texts(code_of(x).encode(words(x["message"]), words(x["rho"])).tolist()),
    "code.message_of": lambda x: texts(code_of(x).message_of(words(x["coefficients"])).tolist()),
    "code.evaluate": lambda x: texts(code_of(x).evaluate(words(x["coefficients"]), np.array(x["positions"])).tolist()),
}


@op("merkle.root")
def _merkle_root(x: Input) -> str:
    leaves = np.frombuffer(b"".join(bytes.fromhex(v) for v in x["leaves"]), dtype=np.uint8).reshape(-1, 32)
    return merkle.levels_from_leaves(leaves)[-1].tobytes().hex()


@op("merkle.opening")
def _merkle_opening(x: Input) -> str:
    """As protocol/schedule/opening.py compares."""
    found = merkle.root_from_proof(x["n"], x["positions"], [bytes.fromhex(v) for v in x["leaves"]], [bytes.fromhex(v) for v in x["nodes"]])
    if found.hex() != x["root"]:
        raise VerificationError("merkle-root", "vector", x["root"], found.hex())
    return "accepted"


# transcript ----------------------------------------------------------------------------------------


@op("transcript.events")
def _events(x: Input) -> Any:
    t, out = Transcript(), []
    for kind, tag, *rest in x["events"]:
        if kind == "absorb":
            t.absorb(tag, bytes.fromhex(rest[0]))
        else:
            out.append(texts(t.draw(tag, rest[0], int(rest[1]))))
    return {"draws": out, "state": t.state.hex()}


@op("channel.positions")
def _positions(x: Input) -> Any:
    channel = CountingChannel(F)
    channel.bind("seed", bytes.fromhex(x["seed"]))
    return channel.positions("positions", x["n"], x["count"]).tolist()


@op("channel.read")
def _read(x: Input) -> Any:
    channel = VerifyingChannel(F, bytes.fromhex(x["proof"]))
    for kind, tag, count in x["messages"]:
        if kind == "bytes":
            channel.clear_bytes(tag, count, lambda: b"")
        elif kind == "secrets":
            channel.secrets(tag, count, tuple)
        else:
            (channel.clear if kind == "extension" else channel.clear_field)(tag, count, lambda: F.zeros(0))
    channel.finish()
    return channel.transcript.state.hex()


# optimizer, RoPE, layouts, statements --------------------------------------------------------------


@op("optimizer.integers")
def _optimizer(x: Input) -> Any:
    o = Optimizer(**x["optimizer"])
    first, count, steps = x["first"], x["count"], x["steps"]
    out: Input = {"momentum": o.momentum_integer, "rates": list(o.rates(first, count, steps))}
    if o.kind == "adamw":
        out |= {
            "gains": texts(o.gains(first, count, steps, x["scale"])),
            "epsilons": texts(o.epsilons(first, count, x["scale"])),
            "beta1": list(o.one_minus_beta("beta1", 16)),
            "beta2": list(o.one_minus_beta("beta2", 12)),
        }
        if o.weight_decay != "0":
            out["decays"] = list(o.decays(first, count, steps))
    return out


@op("rope.tables")
def _rope(x: Input) -> Any:
    model = ModelConfig(**x["model"])
    tables = query_tables if x["query"] else rope_tables
    return [t.tolist() for t in tables(model.head_dim, model.theta, x["positions"], model.scaling)]


@op("layout.pack")
def _layout(x: Input) -> Any:
    layout = CommitmentLayout.pack([(n, tuple(s)) for n, s in x["tensors"]], code_of(x), x["label"])
    return {
        "id": layout.identity(bytes.fromhex(x["root"])),
        "offsets": {s.name: s.offset for s in layout.slots},
        "rows": layout.rows.tolist(),
        "variables": layout.variables,
    }


@op("statement.tasks")
def _tasks(x: Input) -> Any:
    manifest = RunManifest.from_json(x["manifest"].encode())
    return [[str(task), statement_id(manifest, task)] for task in task_list(manifest)]


@op("statement.layouts")
def _layouts(x: Input) -> Any:
    manifest = RunManifest.from_json(x["manifest"].encode())
    names = {name for task in task_list(manifest) for _, name in task.commitments}
    return {str(name): commitment_layout(manifest, name).identity(bytes(32)) for name in names}


# the relation's rounding ---------------------------------------------------------------------------


def _satisfied(g: Graph, inputs: dict[str, list[int]], given: dict[int, list[int]]) -> str:
    """Whether all assertions hold for these committed values; limbs are the honest ones."""
    arrays = {("in", name): np.array(v, dtype=np.int64) for name, v in inputs.items()}
    values = evaluate(g, arrays, g.tensors, ReferenceOps(), {i: np.array(v, dtype=np.int64) for i, v in given.items()})
    check(g, values)
    return "satisfied"


def _input(g: Graph, x: Input, name: str) -> Any:
    return g.input("in", name, "n", (len(x[name]),), *x.get(f"{name}_bounds", (min(x[name]), max(x[name]))))


@op("relation.rescale")
def _rescale(x: Input) -> Any:
    g = Graph()
    z = _input(g, x, "z")
    y = declare(g, "y", "n", z.shape, x["bits"], signed=x["signed"])
    attach(g, z, x["shift"], y)
    (signed_check if x["signed"] else range_check)(g, y, x["bits"], "y")
    return _satisfied(g, {"z": x["z"]}, {y.index: x["y"]})


@op("relation.isqrt")
def _isqrt(x: Input) -> Any:
    g = Graph()
    root = isqrt(g, _input(g, x, "v"), "root")
    return _satisfied(g, {"v": x["v"]}, {root.index: x["root"]})


@op("relation.divide")
def _divide(x: Input) -> Any:
    g = Graph()
    numerator, divisor = _input(g, x, "n"), _input(g, x, "d")
    y = declare(g, "y", "n", numerator.shape, x["bits"])
    divide(g, numerator, divisor, y)
    signed_check(g, y, x["bits"], "y")
    return _satisfied(g, {"n": x["n"], "d": x["d"]}, {y.index: x["y"]})


@op("relation.range")
def _range(x: Input) -> Any:
    g = Graph()
    range_check(g, _input(g, x, "t"), x["bits"], "t")
    return _satisfied(g, {"t": x["t"]}, {})
