"""Known-answer vectors: the files keep their schema, and this implementation gives every answer in them.

Outputs were computed from definitions, not by protocol/ (tests/campaigns/vectors/make_*.py; `make vectors` makes them anew).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from protocol.code import Code
from protocol.field import GOLDILOCKS
from prover.backend import NAMES, select
from tests.campaigns.vectors import run_log
from tests.campaigns.vectors.run import OPS, answer, texts, words
from tests.support.device import Carried, device

FOLDER = Path(run_log.__file__).parents[2] / "vectors"
SCHEMA = json.loads((FOLDER / "schema.json").read_bytes())
SUITES: dict[str, dict[str, dict[str, Any]]] = {
    path.stem: {v["id"]: v for v in json.loads(path.read_bytes())["vectors"]}
    for path in sorted(FOLDER.glob("*.json"))
    if path.stem != "schema"
}


def test_there_are_enough_and_most_are_invalid() -> None:
    every = [v for suite in SUITES.values() for v in suite.values()]
    assert len(every) >= 300 and sum("reason" in v for v in every) >= 0.6 * len(every)
    assert {v["op"] for v in every} == set(OPS)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 1_000_000


@pytest.mark.parametrize("name", SUITES)
def test_schema(name: str) -> None:
    validator = Draft202012Validator(SCHEMA)
    value = json.loads((FOLDER / f"{name}.json").read_bytes())
    validator.validate(value)
    assert value["suite"] == name and len(SUITES[name]) == len(value["vectors"])
    assert not validator.is_valid(value | {"version": 2}) and not validator.is_valid(
        value | {"vectors": [{"id": "x/000", "op": "x.y", "input": {}}]}
    )


@pytest.mark.parametrize("name", SUITES)
def test_answers(name: str) -> None:
    for vector in SUITES[name].values():
        found = answer(vector, SUITES[name])
        assert found == {key: vector[key] for key in ("output", "reason") if key in vector}, vector["id"]


@pytest.mark.parametrize("backend", [name for name in NAMES if name != "auto"])
def test_every_backend_encodes_and_hashes_alike(backend: str) -> None:
    """The prover's codewords and column digests on each device."""
    b = Carried(device()) if backend == "cuda" else select(backend)
    for vector in SUITES["code"].values():
        if vector["op"] == "code.encode":
            x = vector["input"]
            code = Code(GOLDILOCKS, x["ell"], x["n"], x["blinding"])
            assert texts(b.encode(code, words(x["message"])[None], words(x["rho"])[None])[0].tolist()) == vector["output"]
    for vector in SUITES["merkle"].values():
        x = vector["input"]
        if vector["op"] == "merkle.leaf" and "output" in vector and x["column"]:
            column = np.frombuffer(bytes.fromhex(x["column"]), dtype=">u8").astype(np.uint64).reshape(-1, 1)
            salts = np.frombuffer(bytes.fromhex(x["salt"]), dtype=np.uint8).reshape(1, 32)
            assert b.hash_columns(column, salts)[0].tobytes().hex() == vector["output"]
        elif vector["op"] == "merkle.root" and "output" in vector:
            leaves = np.frombuffer(bytes.fromhex("".join(x["leaves"])), dtype=np.uint8).reshape(-1, 32)
            assert b.merkle_levels(leaves)[-1].tobytes().hex() == vector["output"]
    for vector in SUITES["field"].values():
        x = vector["input"]
        if vector["op"] == "field.kmul":
            sides = [np.array([[int(c) for c in pair] for pair in x[k]], dtype=np.uint64).T.copy() for k in "ab"]
            assert texts(b.kmul(*sides).T.tolist()) == vector["output"]
        elif vector["op"] == "field.eq_table":
            point = np.array([[int(c) for c in pair] for pair in x["point"]], dtype=np.uint64).reshape(-1, 2).T.copy()
            assert texts(b.eq_table(point).T.tolist()) == vector["output"]
