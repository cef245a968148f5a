"""One task: what is checked of a statement and of a proof's size before the proof, and after it; and texts made safe to print."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

import verifier.task
from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.params import profile
from protocol.soundness import Soundness
from protocol.statement import task_list
from tests.support.bundles import Judge, Source
from tests.support.unproved import World, refused
from tests.toy import EVEN, toy
from verifier.run import Job, TaskVerdict, check_one
from verifier.task import (
    MAX_PROOF_BYTES,
    MAX_STATEMENT_BYTES,
    fail_closed,
    first_difference,
    one_line,
    printable,
    published_values,
    require_size,
    typed,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


# statements --------------------------------------------------------------------------------------------------------------------------


def test_published_values_are_integers_of_the_relation_s_names_and_shapes(world: World) -> None:
    graph = world.task("head").graph(world.manifest)

    def read(published: object) -> list[int]:
        return published_values(graph, json.dumps({"published": published}).encode())["loss"].tolist()

    assert read({"loss": [5]}) == [5]
    for edge in (2**62 - 1, 1 - 2**62):
        assert read({"loss": [edge]}) == [edge]
    for published in ({}, {"loss": [1], "more": [1]}, {"los": [1]}, [], ["loss"], "loss", None, 1):
        refused("published-names", lambda p=published: read(p))
    for value in ([], [1, 2], 1, "1", {"0": 1}, None, True):
        refused("published-shape", lambda v=value: read({"loss": v}))
    for number in (2**62, -(2**62), True, 1.0, "1", None, [1]):
        refused("published-range", lambda n=number: read({"loss": [n]}))


def test_a_statement_of_no_such_form_is_malformed(world: World) -> None:
    graph = world.task("embed").graph(world.manifest)
    assert published_values(graph, b'{"published":{}}') == {}
    for content in (b"", b"{", b"{}", b"[]", b"null", b"1", b"\xff", b"[" * 100_000, b'{"published":{}}'.decode().encode("utf-16")):
        assert refused("malformed", lambda c=content: published_values(graph, c)).where == "statement"


def test_a_statement_has_at_most_a_mebibyte(world: World) -> None:
    graph, text = world.task("embed").graph(world.manifest), b'{"published":{}}'
    assert MAX_STATEMENT_BYTES == 2**20 and published_values(graph, text.ljust(2**20)) == {}
    refused("size", lambda: published_values(graph, text.ljust(2**20 + 1)))


def test_the_first_key_that_differs_is_named() -> None:
    assert first_difference(b'{"a":1,"b":2}', b'{"a":1,"b":3}') == ("b = 2", "b = 3")
    assert first_difference(b'{"a":1,"b":2}', b'{"a":2,"b":3}') == ("a = 1", "a = 2")
    assert first_difference(b'{"a":1}', b'{"a":1,"b":3}') == ("b = None", "b = 3")
    assert first_difference(b'{"a":1,"b":2}', b'{"a":1}') == ("b = 2", "b = None")
    for other in (b'{"a": 1}', b"[]", b"{", b"\xff", b"null", b"[" * 100_000):
        assert first_difference(b'{"a":1}', other) == ("the canonical statement", "other bytes")


def test_a_manifest_whose_relation_cannot_be_built_proves_nothing(world: World) -> None:
    """Exponents are missing, or so large that an intermediate value overflows."""
    exponents = world.manifest.exponents
    for wrong in ({}, dict.fromkeys(exponents, 96), dict.fromkeys(exponents, -96)):
        manifest = replace(world.manifest, exponents=wrong)
        error = refused("relation", lambda m=manifest: world.verify("layer", world.content("layer"), manifest=m))
        assert error.where == str(world.task("layer"))


def test_a_statement_is_what_follows_from_manifest_and_ids(world: World) -> None:
    """Any other is refused, and the key that differs is named."""
    content = json.loads(world.content("head", loss=[5]))
    for key, value in (("kind", "embed"), ("window", 1), ("manifest", "0" * 64), ("relation", "0" * 64), ("commitments", []), ("more", 1)):
        changed = canonical_json(content | {key: value})
        assert refused("statement", lambda c=changed: world.verify("head", c)).expected.startswith(f"{key} = ")
    refused("statement", lambda: world.verify("head", canonical_json(content) + b"\n"))


# sizes -------------------------------------------------------------------------------------------------------------------------------


def test_a_proof_has_a_least_size_that_follows_from_the_tensors_it_opens() -> None:
    """8·t/ℓ bytes for each cell of the commitments, and for each attention score of a layer."""
    manifest = toy(sizes=EVEN, target_modules=("q_proj",), steps=3, window_steps=3, batch_size=2, sequence_length=5, examples=6).manifest
    manifest = replace(manifest, profile="goldilocks-2^10")
    params, m = profile("goldilocks-2^10"), manifest.model
    steps, sequences, length = 3, 2, 5
    x = steps * sequences * length * m.hidden
    q = 2 * (2 * m.hidden + 2 * m.heads * m.head_dim)  # lora_A and lora_B of rank 2, each with its momentum
    projections = 2 * m.hidden * (m.heads + m.kv_heads) * m.head_dim + 3 * m.hidden * m.ffn + 2 * m.hidden
    cells = {
        "embed": manifest.examples * (2 * length + 1) + m.vocab * m.hidden + x,
        "head": manifest.examples * (2 * length + 1) + m.vocab * m.hidden + 2 * x,
        "layer": projections + 3 * x + q + q // 2 + steps * sequences * m.heads * length**2,
    }
    for task in task_list(manifest):
        if task.kind in cells:
            least = 8 * params.queries * cells[task.kind] // params.ell
            require_size(manifest, task, least)
            error = refused("truncated", lambda t=task, n=least: require_size(manifest, t, n - 1))
            assert error.where == str(task) and error.expected == f"at least {least} bytes for {cells[task.kind]} cells"
    assert {"embed", "head", "layer"} <= {task.kind for task in task_list(manifest)}


def test_the_least_size_of_the_tasks_of_a_step_in_parts() -> None:
    """A layer's scores are those of its own part; an update opens the gradients of all of them."""
    sizes = {"steps": 3, "window_steps": 3, "batch_size": 4, "parts": 2, "sequence_length": 5, "examples": 6}
    manifest = toy(sizes=EVEN, target_modules=("q_proj",), **sizes).manifest
    manifest = replace(manifest, profile="goldilocks-2^10")
    params, m = profile("goldilocks-2^10"), manifest.model
    steps, sequences, length = 3, 2, 5
    x = steps * sequences * length * m.hidden
    q = 2 * (m.hidden + m.heads * m.head_dim)  # lora_A and lora_B of rank 2
    projections = 2 * m.hidden * (m.heads + m.kv_heads) * m.head_dim + 3 * m.hidden * m.ffn + 2 * m.hidden
    gradient = steps * q + m.hidden  # with γ of the norm before q_proj
    cells = {
        "embed": [manifest.examples * (2 * length + 1) + m.vocab * m.hidden + x] * 2,
        "head": [manifest.examples * (2 * length + 1) + m.vocab * m.hidden + 2 * x + 2 * steps] * 2,
        "layer": [projections + steps * q + gradient + 3 * x + steps * sequences * m.heads * length**2] * 2,
        "update": [2 * gradient + steps * q + 2 * q + q],  # the state has momentum, and what is delivered has not
    }
    for kind, counts in cells.items():
        tasks = [task for task in task_list(manifest) if task.kind == kind]
        for task, count in zip(tasks, counts, strict=True):
            least = 8 * params.queries * count // params.ell
            require_size(manifest, task, least)
            error = refused("truncated", lambda t=task, n=least: require_size(manifest, t, n - 1))
            assert error.where == str(task) and error.expected == f"at least {least} bytes for {count} cells"


def test_the_size_is_compared_before_the_statement_is_read(world: World) -> None:
    refused("truncated", lambda: world.verify("layer", b"{", size=0))
    refused("malformed", lambda: world.verify("layer", b"{"))


def test_a_proof_has_at_most_64_mebibytes(world: World) -> None:
    assert MAX_PROOF_BYTES == 64 * 2**20
    content = world.content("embed")
    refused("size", lambda: world.verify("embed", content, size=MAX_PROOF_BYTES + 1))
    with pytest.raises(VerificationError) as caught:
        world.verify("embed", content, size=MAX_PROOF_BYTES)
    assert caught.value.reason != "size"


def test_bytes_that_the_schedule_leaves_unread_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a schedule that reads nothing, of a proof of any length."""
    monkeypatch.setattr(verifier.task, "run_task", lambda *_: None)
    refused("trailing", lambda: world.verify("embed", world.content("embed")))


# a real proof ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embed(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The evidence of one task, as a run's verification hands it out."""
    jobs: list[Job] = []

    def keep(given: Iterable[Job]) -> list[TaskVerdict]:
        jobs.extend(given)
        return []

    assert "not checked" in Judge(tmp_path_factory.mktemp("bundle"))(source, spread=keep).reason
    return next(job for job in jobs if job.task.kind == "embed")


def test_an_honest_proof_is_accepted_and_one_byte_more_is_not(embed: Job) -> None:
    found = check_one(*embed)
    assert found.accepted and found.reason == "" and found.soundness and found.soundness.bits >= 100 and found.task == embed.task
    longer = replace(embed.evidence, proof=embed.evidence.proof + b"\0")
    assert check_one(*embed._replace(evidence=longer)).reason.startswith("trailing at end of proof")


def test_a_root_that_the_id_is_not_of(embed: Job) -> None:
    for name in embed.roots:
        reason = check_one(*embed._replace(roots=dict(embed.roots) | {name: bytes(32)})).reason
        assert reason.startswith(f"commitment-id at {name}")


def test_an_accepted_proof_of_less_than_100_bits_is_refused(embed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """No registered profile has so few; a calculator that finds fewer decides."""
    monkeypatch.setattr(verifier.task, "task_soundness", lambda *_: Soundness({"queries": 120.0, "folding": 99.99}, 99.9))
    found = check_one(*embed)
    assert not found.accepted and found.soundness is None and found.reason.startswith(f"soundness at {embed.task}")
    monkeypatch.setattr(verifier.task, "task_soundness", lambda *_: Soundness({"queries": 100.0}, 99.0))
    assert check_one(*embed).accepted


# texts and objects of the record -----------------------------------------------------------------------------------------------------


def test_what_is_printed_is_the_beginning_of_a_value() -> None:
    assert printable("x" * 500) == "x" * 120 and printable({"a": [1]}) == "{'a': [1]}" and printable("\n" * 121) == "\\n" * 120


def test_a_value_too_deep_to_print_is_named_by_its_type() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    assert printable(deep) == "list"


def test_objects_have_these_keys_with_these_types() -> None:
    kinds = {"a": int, "b": object}
    for value in ({"a": 1, "b": None}, {"a": 1, "b": "x", "c": 2}):
        assert typed(value, kinds, "here") == value
    for value in ({"a": 1}, {"b": 1}, {"a": True, "b": 1}, {"a": "1", "b": 1}, [], None, "ab", [("a", 1), ("b", 1)]):
        assert refused("malformed", lambda v=value: typed(v, kinds, "here")).where == "here"


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RecursionError(), OverflowError(), OSError("x"), ZeroDivisionError()])
def test_whatever_hostile_evidence_raises_is_a_rejection(error: Exception) -> None:
    def fail() -> None:
        with fail_closed("here"):
            raise error

    found = refused("malformed", fail)
    assert found.where == "here" and type(error).__name__ in found.actual


def test_rejections_and_lack_of_memory_pass_unchanged() -> None:
    for error in (VerificationError("size", "there"), MemoryError()):
        with pytest.raises(type(error)) as caught, fail_closed("here"):
            raise error
        assert caught.value is error


def test_texts_on_one_line_of_printable_ascii() -> None:
    plain = "".join(chr(n) for n in range(32, 127))
    assert one_line(plain) == plain
    assert one_line("a\nb\r\t\x00\x1b[2J\x7f") == "a\\nb\\r\\t\\x00\\x1b[2J\\x7f"
    assert one_line("\x80é\u2028\U0001f600") == "\\x80\\xe9\\u2028\\U0001f600"
