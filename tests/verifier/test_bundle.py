"""Bundles: an honest one is accepted; whatever a provider, a log's owner or a thief of files does to one is rejected by name."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.statement import task_list
from tests.cli.build_run import RUN_ID, Built
from tests.support.bundles import KEYS, OTHER_KEYS, Judge, Source, encode, path, policy, remembered, statement, zipped
from verifier.bundle import MAX_DIRECTORY, MAX_LINE, MAX_ROWS, Bundle, LoggedRow, _Guarded, read_bundle
from verifier.evidence import verify_bundle
from verifier.log import EMPTY_ROOT
from verifier.note import Checkpoint
from verifier.report import report
from verifier.run import Job, TaskVerdict, check_one
from verifier.task import MAX_PROOF_BYTES

# honest ---------------------------------------------------------------------------------------------------------------


def test_an_honest_bundle_is_accepted(judge: Judge, honest: bytes, built: Built) -> None:
    verdict = judge(honest, spread=lambda jobs: (check_one(*job) for job in jobs))
    assert verdict.accepted and verdict.found and len(verdict.found.tasks) == len(task_list(built.manifest))
    assert report(verdict)["bits"] >= 100 and "signed as the policy demands" in verdict.trust


def test_without_a_policy_the_verdict_says_that_the_signature_was_not_checked(judge: Judge, source: Source) -> None:
    verdict = judge(replace(source, keys=OTHER_KEYS), policy=None)
    assert verdict.accepted and "was not checked" in verdict.trust


def test_rows_of_other_runs_may_stand_between(judge: Judge, source: Source) -> None:
    others = {"table": "runs", "row": {"run_id": "other", "manifest_digest": "", "manifest": ""}}
    mixed = tuple(leaf for own in source.leaves for leaf in (others, own))
    assert judge(replace(source, leaves=mixed, shown=tuple(range(1, len(mixed), 2)))).accepted


def test_an_order_is_compared(judge: Judge, honest: bytes) -> None:
    assert judge(honest, order={"seed": "7"}).accepted
    assert "order at seed" in judge.reason(honest, order={"seed": "8"})


def test_proofs_are_read_one_at_a_time(source: Source) -> None:
    alive = 0

    def read(digest: str) -> bytes:
        nonlocal alive
        alive += 1
        return source.objects[digest]

    def spread(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
        for number, job in enumerate(jobs, 1):
            assert alive == number
            yield next(iter(remembered([job])))

    hashes = source.hashes
    rows = [LoggedRow(n, encode(leaf), tuple(path(n, hashes))) for n, leaf in enumerate(source.leaves)]
    assert verify_bundle(Bundle(RUN_ID, KEYS.sign(source.checkpoint()), 0, (), rows, read), spread=spread).accepted


# what a thief of files can do -----------------------------------------------------------------------------------------


def test_every_member_flipped(judge: Judge, source: Source) -> None:
    members, chance = source.members(), random.Random(1)
    for name, data in members.items():
        for position in [0, len(data) - 1, *chance.sample(range(len(data)), 3)]:
            changed = bytearray(data)
            changed[position] ^= 1 << chance.randrange(7)
            assert judge.reason(zipped(members | {name: bytes(changed)})), (name, position)


def test_every_member_dropped(judge: Judge, source: Source) -> None:
    members = source.members()
    for name in members:
        reason = judge.reason(zipped({key: data for key, data in members.items() if key != name}))
        assert "missing-member" in reason or (name == "rows.jsonl" and "rows.jsonl" in reason), name


def test_flipped_bytes_of_the_file(judge: Judge, honest: bytes) -> None:
    """A flip that changes no member (a date in a header) may pass; anything else is rejected, and nothing crashes."""
    chance, passed = random.Random(2), 0
    start = zipfile.ZipFile(io.BytesIO(honest)).start_dir
    places = chance.sample(range(len(honest)), 40) + chance.sample(range(start, len(honest)), 60) + list(range(30))
    for position in places:
        data = bytearray(honest)
        data[position] ^= 1 << chance.randrange(8)
        try:
            verdict = judge(bytes(data))
        except VerificationError:
            continue
        if verdict.accepted:
            passed += 1
            with zipfile.ZipFile(io.BytesIO(honest)) as ours, zipfile.ZipFile(io.BytesIO(bytes(data))) as theirs:
                assert {i.filename: ours.read(i) for i in ours.infolist()} == {i.filename: theirs.read(i) for i in theirs.infolist()}
    assert passed < len(places) // 2


def test_truncated_files(judge: Judge, honest: bytes) -> None:
    for cut in (0, 1, 21, 22, 100, len(honest) // 2, len(honest) - 23, len(honest) - 22, len(honest) - 1):
        assert judge.reason(honest[:cut])


@pytest.mark.parametrize("table", ["runs", "commitments", "statements", "proofs"])
def test_every_row_left_out(judge: Judge, source: Source, table: str) -> None:
    expected = {"runs": "missing-row", "commitments": "missing-commitment", "statements": "foreign-row", "proofs": "missing-proof"}
    for number, leaf in enumerate(source.leaves):
        if leaf["table"] == table:
            shown = tuple(n for n in range(len(source.leaves)) if n != number)
            assert expected[table] in judge.reason(replace(source, shown=shown)), number


def test_rows_in_another_order_or_twice(judge: Judge, source: Source) -> None:
    n = len(source.leaves)
    for shown in [(1, 0, *range(2, n)), (0, 0, *range(1, n)), (*range(n), n - 1), tuple(reversed(range(n)))]:
        assert "row-position" in judge.reason(replace(source, shown=shown))


def test_a_row_after_the_checkpoint(judge: Judge, source: Source) -> None:
    assert "row-position" in judge.reason(replace(source, size=len(source.leaves) - 1))


def test_a_row_that_is_not_in_the_log(judge: Judge, source: Source) -> None:
    members = source.members()
    lines = members["rows.jsonl"].splitlines(keepends=True)
    for number in (0, len(lines) // 2, len(lines) - 1):
        row = json.loads(lines[number])
        for change in ({"leaf": row["leaf"].replace("a", "b", 1)}, {"path": row["path"][1:]}, {"path": row["path"][::-1]},
                       {"path": [*row["path"], "0" * 64]}, {"path": ["0" * 64, *row["path"][1:]]}):
            if row | change == row:
                continue  # a path of one hash, reversed
            changed = [*lines[:number], canonical_json(row | change) + b"\n", *lines[number + 1:]]
            assert judge.reason(zipped(members | {"rows.jsonl": b"".join(changed)})).startswith(("inclusion", "malformed")), change


def test_swapped_objects(judge: Judge, source: Source) -> None:
    first, second = list(source.objects)[:2]
    swapped = source.objects | {first: source.objects[second], second: source.objects[first]}  # type: ignore[operator]
    verdict = judge(replace(source, objects=swapped))
    assert not verdict.accepted and verdict.found
    assert sum("damaged-object" in task.reason for task in verdict.found.tasks) == 2


# checkpoints ----------------------------------------------------------------------------------------------------------


def test_another_checkpoint(judge: Judge, source: Source) -> None:
    members = source.members()
    ours = source.checkpoint()
    for note, expected in [
        (OTHER_KEYS.sign(ours), "checkpoint-signature"),
        (KEYS.sign(replace(ours, origin="elsewhere")), "checkpoint-origin"),
        (KEYS.sign(replace(ours, root=bytes(32))), "inclusion"),
        (KEYS.sign(replace(ours, size=ours.size + 1)), "inclusion"),
        (KEYS.sign(replace(ours, size=ours.size - 1)), "inclusion"),
        (members["checkpoint"].replace(str(ours.size).encode(), str(ours.size + 1).encode(), 1), "checkpoint-signature"),
        (b"", "missing-checkpoint"),
        (b"\xff", "checkpoint"),
        (members["checkpoint"][: len(members["checkpoint"]) // 2], "checkpoint"),
    ]:
        assert expected in judge.reason(zipped(members | {"checkpoint": note})), expected
    assert "checkpoint-signature" in judge.reason(source, policy=policy(OTHER_KEYS))


def test_a_log_that_grew_is_accepted_and_a_rollback_or_fork_is_not(judge: Judge, source: Source) -> None:
    n = len(source.leaves)
    extra = {"table": "run_events", "row": {"run_id": "other", "kind": "x", "window": -1, "detail": "{}"}}
    shown = tuple(range(n))
    grown = replace(source, leaves=(*source.leaves, extra, extra, extra), shown=shown)
    before, after = source.checkpoint(), grown.checkpoint()
    assert judge(source, seen=before).accepted and judge(grown, seen=after).accepted
    assert judge(replace(grown, since=n), seen=before).accepted
    assert judge(grown, seen=Checkpoint(before.origin, 0, EMPTY_ROOT)).accepted
    assert "rollback" in judge.reason(source, seen=after)
    assert "consistency" in judge.reason(grown, seen=before)
    assert "--since" in judge.reason(replace(grown, since=n - 1), seen=before)
    assert "fork" in judge.reason(source, seen=replace(before, root=bytes(32)))
    assert "consistency" in judge.reason(replace(grown, since=n), seen=replace(before, root=bytes(32)))
    assert "checkpoint-origin" in judge.reason(source, seen=replace(before, origin="another"))


# what the log's owner can do: rewrite rows and sign everything anew ---------------------------------------------------


def rewrites(source: Source) -> dict[str, tuple[Source, str]]:
    state = {"name": "state/0", "window": 1}
    run = next(leaf["row"] for leaf in source.leaves if leaf["table"] == "runs")
    proofs = [leaf["row"] for leaf in source.leaves if leaf["table"] == "proofs"]
    head, embed = statement(source, "head"), statement(source, "embed")
    content = next(leaf["row"]["content"] for leaf in source.leaves if leaf["row"].get("statement_id") == head and "content" in leaf["row"])
    soundness = proofs[0]["soundness"]
    swapped = source.change("proofs", {"statement_id": proofs[-1]["statement_id"]}, object_digest=proofs[0]["object_digest"],
                            size=proofs[0]["size"])
    return {
        "manifest": (source.change("runs", {}, manifest=run["manifest"].replace('"seed":7', '"seed":6')), "manifest-digest"),
        "manifest digest": (source.change("runs", {}, manifest_digest="0" * 64), "manifest-digest"),
        "root of a state": (source.change("commitments", state, root="0" * 64), "state/0@1"),
        "root that is no hex": (source.change("commitments", state, root="zz"), "commitment-row"),
        "root in capitals": (source.change("commitments", state, root="A" * 64), "commitment-row"),
        "root of the dataset": (source.change("commitments", {"name": "dataset"}, root="0" * 64), "commitment-id"),
        "commitment id": (source.change("commitments", {"name": "x/0"}, commitment_id="0" * 64), "commitment_id"),
        "geometry": (source.change("commitments", {"name": "x/0"}, geometry="{}"), "geometry"),
        "budget": (source.change("commitments", {"name": "head"}, budget=99), "budget"),
        "unlimited budget": (source.change("commitments", {"name": "head"}, budget=""), "budget"),
        "layer": (source.change("commitments", {"name": "x/0"}, layer=1), "layer"),
        "commitment renamed": (source.change("commitments", {"name": "x/1"}, name="x/9"), "missing-commitment"),
        "commitment dropped": (source.without("commitments", {"name": "delivered/0"}), "missing-commitment"),
        "commitment twice": (source.change("commitments", {"name": "x/0", "window": 1}, window=0), "duplicate-row"),
        "proof dropped": (source.without("proofs", {"statement_id": embed}), "missing-proof"),
        "proof of nothing": (source.change("proofs", {"statement_id": embed}, object_digest="0" * 64), "missing-member"),
        "proof under no digest": (source.change("proofs", {"statement_id": embed}, object_digest="../x"), "object_digest"),
        "proof of another task": (swapped, "head(1)"),
        "published loss": (
            source.change("statements", {"statement_id": head}, content=content.replace('"loss":[', '"loss":[1')), "head(0)"),
        "statement's window": (source.change("statements", {"statement_id": embed}, window=7), "statement-row"),
        "statement's kind": (source.change("statements", {"statement_id": embed}, kind="head"), "statement-row"),
        "statement of another run": (source.change("statements", {"statement_id": embed}, run_id="other"), "foreign-row"),
        "soundness": (source.change("proofs", {}, soundness=soundness.replace('"bits":1', '"bits":2')), "soundness"),
        "soundness, no JSON": (source.change("proofs", {}, soundness="{"), "soundness"),
        "size": (source.change("proofs", {}, size=1), "proof-row"),
        "size as text": (source.change("proofs", {}, size="1"), "malformed"),
        "column missing": (source.with_leaf({"table": "commitments", "row": {"run_id": RUN_ID, "name": "x/0", "window": 5}}), "malformed"),
        "row of another run": (
            source.with_leaf({"table": "run_events", "row": {"run_id": "other", "kind": "k", "window": -1, "detail": ""}}), "foreign-row"),
        "opening of another run": (source.with_leaf({"table": "openings", "row": {"statement_id": "x"}}), "foreign-row"),
        "unknown table": (source.with_leaf({"table": "gifts", "row": {"run_id": RUN_ID}}), "row-table"),
        "run twice": (source.with_leaf(source.leaves[0]), "duplicate-row"),
        "leaf, no row": (source.with_leaf([1]), "leaf"),  # type: ignore[arg-type]
        "another run's name": (replace(source, run_id="another"), "foreign-row"),
        "no rows": (replace(source, shown=()), "missing-row"),
        "no log": (replace(source, leaves=()), "missing-row"),
    }


def test_every_rewrite_is_rejected_by_name(judge: Judge, source: Source) -> None:
    for name, (changed, expected) in rewrites(source).items():
        assert expected in judge.reason(changed), (name, judge.reason(changed))


def test_less_soundness_may_be_recorded_than_is_proved(judge: Judge, source: Source) -> None:
    assert judge(source.change("proofs", {}, soundness='{"bits":100,"centibits":{"queries":10000},"total_bits":100}')).accepted


# files made to hurt ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "objects/../checkpoint", "objects/" + "A" * 64, "objects/" + "0" * 63, "extra", "",
                                  "Bundle.json", "objects/" + "0" * 64 + "/"])
def test_foreign_members(judge: Judge, source: Source, name: str) -> None:
    assert "bundle" in judge.reason(zipped([*source.members().items(), (name, b"x")]))


def test_duplicate_members(judge: Judge, source: Source) -> None:
    for name, data in list(source.members().items())[:5]:
        with pytest.warns(UserWarning, match="Duplicate"):
            assert "bundle-member" in judge.reason(zipped([*source.members().items(), (name, data)]))


def test_compressed_members_and_bombs(judge: Judge, source: Source) -> None:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "bundle-member" in judge.reason(zipped(source.members(), method))
    bomb = zipped(source.members() | {"objects/" + "0" * 64: bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 22 and "bundle-member" in judge.reason(bomb)


def declared(honest: bytes, name: bytes, **fields: tuple[int, str, int]) -> bytes:
    """The file with (offset, format, value) put into one member's entry of the directory."""
    data = bytearray(honest)
    entry = data.rindex(name) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    for offset, form, value in fields.values():
        struct.pack_into(form, data, entry + offset, value)
    return bytes(data)


def test_huge_declared_sizes(judge: Judge, honest: bytes, source: Source) -> None:
    name = b"objects/" + next(iter(source.objects)).encode()
    for target in (b"bundle.json", b"checkpoint", b"rows.jsonl", name):
        big = (1 << 32) - 2
        assert judge.reason(declared(honest, target, stored=(20, "<I", big), plain=(24, "<I", big)))
        assert "bundle-member" in judge.reason(declared(honest, target, plain=(24, "<I", big)))
        assert judge.reason(declared(honest, target, offset=(42, "<I", big)))
        assert "bundle-member" in judge.reason(declared(honest, target, flags=(8, "<H", 1)))


def test_a_directory_larger_than_any_honest_one(judge: Judge, honest: bytes) -> None:
    end = len(honest) - 22
    entry = honest[zipfile.ZipFile(io.BytesIO(honest)).start_dir :][: 46 + len("bundle.json")]
    directory = entry * (MAX_DIRECTORY // len(entry) + 1)
    tail = bytearray(honest[end:])
    struct.pack_into("<II", tail, 12, len(directory), end)
    assert judge.reason(honest[:end] + directory + bytes(tail)).startswith("size")


def test_a_line_without_an_end_and_deep_nesting(judge: Judge, source: Source) -> None:
    members = source.members()
    for rows in (b"x" * (1 << 25), b"[" * 100_000, b'{"leaf":"","path":[],"position":' + b"9" * 5000 + b"}\n", b"\n", b"\x00" * 1000,
                 canonical_json({"leaf": "", "path": ["0" * 64] * 129, "position": 0})):
        assert judge.reason(zipped(members | {"rows.jsonl": rows}))


class Small(_Guarded):
    """A file that gives at most four bytes in one piece."""

    cap = 4


def test_a_file_gives_no_more_in_one_piece_than_its_cap(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with Small(tmp_path / "file") as file:
        for ask in (lambda: file.read(), lambda: file.read(-1), lambda: file.read(None), lambda: file.read(5), lambda: file.read(1 << 60)):
            with pytest.raises(VerificationError, match="size at bundle"):
                ask()
        assert file.read(0) == b"" and file.read(4) == b"0123" and file.read(2) == b"45"
        assert file.read() == b"6789"  # as much as is left
        assert file.read() == file.read(1 << 60) == b""
        file.seek(1 << 40)  # where a directory may point to
        assert file.read() == b""
        file.seek(8)
        assert file.read(1 << 60) == b"89"


def given(folder: Path, **header: object) -> Bundle:
    """A bundle of nothing but a header."""
    whole = {"consistency": [], "run": "r", "since": 0, "version": 1} | header
    (folder / "bundle").write_bytes(zipped({"bundle.json": canonical_json(whole), "checkpoint": b"x"}))
    return read_bundle(str(folder / "bundle"))


def test_a_consistency_proof_has_at_most_128_hashes(tmp_path: Path) -> None:
    """Two a level would be enough for a log of 2^63 entries."""
    assert given(tmp_path, consistency=["ab" * 32] * 128).consistency == (b"\xab" * 32,) * 128
    for hashes in (["ab" * 32] * 129, ["AB" * 32], ["ab" * 31], ["ab" * 33], ["zz" * 32], [7], [["ab" * 32]], ["ab" * 32, ""], [""],
                   ["ab" * 32 + "\n"]):
        with pytest.raises(VerificationError, match="malformed at path"):
            given(tmp_path, consistency=hashes)


def test_a_bundle_of_another_version_or_without_a_member_is_none(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"bundle-version at bundle\.json"):
        given(tmp_path, version=2)
    with pytest.raises(VerificationError, match="missing-member at objects/x"):
        given(tmp_path).read("x")


def test_the_largest_sizes_that_are_read(tmp_path: Path) -> None:
    """What an exporter may rely on, and what a machine that verifies must have: MiB of a directory, a line, all rows."""
    assert [size / 2**20 for size in (MAX_DIRECTORY, MAX_LINE, MAX_ROWS)] == [8, 16, 192]
    assert given(tmp_path).limit == MAX_ROWS
    with (tmp_path / "file").open("wb") as file:
        file.truncate(MAX_DIRECTORY + 1)
    with _Guarded(tmp_path / "file") as guarded:
        assert len(guarded.read(MAX_DIRECTORY)) == MAX_DIRECTORY
        guarded.seek(0)
        with pytest.raises(VerificationError, match="size at bundle"):
            guarded.read()


def test_a_bundle_carries_every_proof_that_a_task_may_have(tmp_path: Path) -> None:
    """Else a run would be accepted in its ledger, and rejected when it is exported."""
    name, other, header = "0" * 64, "1" * 64, canonical_json({"consistency": [], "run": "r", "since": 0, "version": 1})
    members = {f"objects/{name}": bytes(MAX_PROOF_BYTES), f"objects/{other}": bytes(MAX_PROOF_BYTES + 1)}
    (tmp_path / "bundle").write_bytes(zipped({"bundle.json": header, "checkpoint": b"x"} | members))
    bundle = read_bundle(str(tmp_path / "bundle"))
    assert len(bundle.read(name)) == MAX_PROOF_BYTES
    with pytest.raises(VerificationError, match="size at bundle"):
        bundle.read(other)
    (tmp_path / "bundle").unlink()  # it is large


def test_more_rows_than_may_be_kept(judge: Judge, source: Source) -> None:
    judge.path.write_bytes(source.bytes())
    assert verify_bundle(read_bundle(str(judge.path), limit=1000)).reason.startswith("size")


@pytest.mark.parametrize("header", [
    b"", b"[]", b"{}", b"\xff", b'{"consistency":[],"run":"x","since":0,"version":2}', b'{"consistency":[],"run":1,"since":0,"version":1}',
    b'{"consistency":["00"],"run":"x","since":0,"version":1}', b'{"consistency":[],"run":"x","since":true,"version":1}',
    b'{"consistency": [], "run": "x", "since": 0, "version": 1}',
])
def test_other_headers(judge: Judge, source: Source, header: bytes) -> None:
    assert judge.reason(zipped(source.members() | {"bundle.json": header}))


def test_what_is_no_bundle_at_all(judge: Judge) -> None:
    for data in (b"", b"PK", b"PK\x05\x06" + bytes(18), bytes(1000), b"PK\x05\x06" + b"\xff" * 18, zipped({})):
        assert judge.reason(data)
    with pytest.raises(FileNotFoundError):
        read_bundle(str(judge.path.with_name("none")))
