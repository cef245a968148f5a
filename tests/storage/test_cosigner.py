"""Key rotation, and cosigners: a quorum of them, and what they refuse."""

import stat
from pathlib import Path

import pytest

from protocol.errors import VerificationError
from storage.checkpoint import KEY_NAME, SigningKey, create_keys, load_keys, with_lines
from storage.cosigner import Cosigner
from storage.errors import StorageConflict, StorageError
from storage.log import COSIGNED, NEWEST, parse_log_proof, verify_log_proof
from storage.models import EventRow
from storage.object_store import ObjectStore
from storage.tree import read_tree
from tests.storage.rows import RUN
from tests.support.log_place import Place
from verifier.note import COSIGNER_KEY, Checkpoint, Policy, check_growth, parse_checkpoint, parse_policy, split_note


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_rotation(place: Place) -> None:
    place.grow(4)
    log, elsewhere = place.publisher(), place.publisher()
    old = create_keys(place.private)
    new = log.rotate_key()
    assert load_keys(place.private) == new and new.retired == ((old.current.public, 5),)
    assert old.current.seed.hex().encode() not in place.private.get(KEY_NAME)
    handover = place.objects.read(NEWEST)
    just_new = Policy(new.policy.logs[:1], {}, {}, "none")
    assert parse_checkpoint(handover, old.policy) == parse_checkpoint(handover, just_new) == split_note(handover)[0]
    place.grow(1)
    elsewhere.publish()  # a process that had started before
    found = parse_checkpoint(place.objects.read(NEWEST), parse_policy(new.policy_text().encode()))
    assert found.size == 6
    check_growth(split_note(handover)[0], found, log.consistency_proof(5, 6))
    with pytest.raises(VerificationError, match="checkpoint-signature"):
        parse_checkpoint(place.objects.read(NEWEST), old.policy)
    forged = Checkpoint(old.current.name, 7, bytes(32))
    with pytest.raises(VerificationError, match="stale-key"):
        parse_checkpoint(old.sign(forged), new.policy)
    place.publisher().rotate_key()
    place.grow(1)
    assert place.publisher().publish()
    assert len(place.ledger.checkpoints()) == 3


def test_rotation_of_an_empty_log(place: Place) -> None:
    new = place.publisher().rotate_key()
    place.grow(1)
    assert place.publisher().publish() and new.retired[0][1] == 0


def cosigner(place: Place, number: int = 1) -> Cosigner:
    folder = place.folder / f"cosigner{number}"
    return Cosigner(folder / "key", folder / "state", f"auditor{number}.example" if not folder.exists() else "")


def cosign(place: Place, who: Cosigner, note: bytes | None = None, objects: ObjectStore | None = None) -> bytes:
    def consistency(first: int, second: int) -> list[bytes]:
        return read_tree(objects or place.objects, second).consistency(first, second)

    return who.cosign(note or place.objects.read(NEWEST), place.policy, consistency, 1_700_000_000)


def test_cosigned_checkpoints_reach_a_quorum(place: Place) -> None:
    log = place.publisher()
    keys = create_keys(place.private)
    first, second = cosigner(place), cosigner(place, 2)
    text = f"log {keys.current.public}\nwitness a {first.key.public}\nwitness b {second.key.public}\ngroup both all a b\nquorum both\n"
    policy = parse_policy(text.encode())
    for number in (3, 2, 300):
        place.grow(number)
        log.publish()
        one = cosign(place, first)
        with pytest.raises(VerificationError, match="quorum"):
            parse_checkpoint(one, policy)
        log.add_cosignature(one, first.key.public)
        log.add_cosignature(cosign(place, second), second.key.public)
        log.add_cosignature(one, first.key.public)  # the same again
        assert parse_checkpoint(place.objects.read(NEWEST), policy).size == place.ledger.log_size()
        assert log.newest_note(cosigned=True) == place.objects.read(COSIGNED) == place.objects.read(NEWEST)
    place.grow(1)
    log.publish()
    with pytest.raises(VerificationError, match="quorum"):
        parse_checkpoint(place.objects.read(NEWEST), policy)
    assert verify_log_proof(parse_log_proof(log.prove(4, cosigned=True)), policy).size == place.ledger.log_size() - 1
    with pytest.raises(StorageError, match="no cosigned checkpoint"):
        log.prove(place.ledger.log_size() - 1, cosigned=True)


def test_a_cosignature_that_is_none_is_not_published(place: Place) -> None:
    log, who = place.publisher(), cosigner(place)
    place.grow(3)
    log.publish()
    note = place.objects.read(NEWEST)
    with pytest.raises(VerificationError, match="cosignature"):
        log.add_cosignature(note, who.key.public)
    other = Checkpoint("example.com/x", 4, bytes(32))
    with pytest.raises(VerificationError, match="a checkpoint that this ledger holds"):
        log.add_cosignature(other.body() + b"\n" + who.key.line(other).encode(), who.key.public)
    forged = SigningKey(who.key.name, bytes(32), COSIGNER_KEY)
    with pytest.raises(VerificationError, match="cosignature"):
        log.add_cosignature(with_lines(note, [forged.line(split_note(note)[0])]), who.key.public)
    old = cosign(place, who)
    place.grow(1)
    log.publish()
    log.add_cosignature(cosign(place, who), who.key.public)
    with pytest.raises(StorageConflict, match="newer cosigned"):
        log.add_cosignature(old, who.key.public)


def test_a_cosigner_refuses_what_contradicts(place: Place, tmp_path: Path) -> None:
    log, who = place.publisher(), cosigner(place)
    place.grow(6)
    log.publish()
    old = place.objects.read(NEWEST)
    place.grow(6)
    log.publish()
    cosign(place, who)
    state = who.state_file.read_bytes()
    keys = create_keys(place.private)

    def refused(reason: str, note: bytes) -> None:
        with pytest.raises(VerificationError) as caught:
            cosign(place, who, note)
        assert caught.value.reason == reason and who.state_file.read_bytes() == state

    refused("rollback", old)
    size, origin = 13, keys.current.name
    refused("fork", keys.sign(Checkpoint(origin, size, bytes(32))))
    refused("checkpoint-origin", SigningKey("example.com/x", keys.current.seed).line(Checkpoint("example.com/x", 13, bytes(32))).join(
        [Checkpoint("example.com/x", 13, bytes(32)).body().decode() + "\n", ""]).encode())
    refused("checkpoint-signature", old.replace(b"\n7\n", b"\n8\n"))
    # a fork that has grown: the provider signs another history and serves its tiles
    fork = Place(tmp_path / "fork")
    fork.private.put(KEY_NAME, place.private.get(KEY_NAME))
    fork.ledger.append(RUN)
    for n in range(20):
        fork.ledger.append(EventRow("run-1", "other", n, "{}"))
    fork.publisher().publish()
    with pytest.raises(VerificationError) as caught:
        cosign(place, who, fork.objects.read(NEWEST), fork.objects)
    assert caught.value.reason == "consistency" and who.state_file.read_bytes() == state
    retired = keys.rotated(7)
    retired.save(place.private)
    refused("stale-key", keys.sign(Checkpoint(origin, 14, bytes(32))))


def test_a_cosigner_starts_from_nothing_and_never_forgets(place: Place) -> None:
    with pytest.raises(ValueError, match="--name"):
        Cosigner(place.folder / "none", place.folder / "state")
    with pytest.raises(ValueError, match="cannot name a key"):
        Cosigner(place.folder / "none", place.folder / "state", "a b")
    place.grow(3)
    place.publisher().publish()
    who = cosigner(place)
    assert stat.S_IMODE((place.folder / "cosigner1" / "key").stat().st_mode) == 0o600
    assert who.seen() == {}
    cosign(place, who)
    assert [item.size for item in cosigner(place).seen().values()] == [4]
    who.state_file.unlink()
    with pytest.raises(StorageError, match="must not sign again"):
        cosign(place, cosigner(place))
    who.state_file.write_bytes(b"{}x")
    with pytest.raises(StorageError, match="damaged"):
        cosign(place, who)
    with pytest.raises(ValueError, match="is the key of"):
        Cosigner(place.folder / "cosigner1" / "key", who.state_file, "somebody.else")
