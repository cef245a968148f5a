"""A ledger that does not begin with what private store or published log have seen of it is refused: openings would be spent twice."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from storage.checkpoint import SEEN_NAME, load_seen
from storage.errors import IntegrityError
from storage.log import NEWEST, LogPublisher
from storage.models import EventRow
from tests.support.log_place import Place
from tests.support.merkle import NaiveTree
from verifier.note import split_note


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def copied(place: Place, source: str, target: str) -> None:
    """Back the ledger up, or restore it: SQLite's own way, which triggers do not see."""
    old, new = (sqlite3.connect(place.folder / name) for name in (source, target))
    with contextlib.closing(old), contextlib.closing(new):
        old.backup(new)


def test_what_was_relied_on_is_remembered_also_if_it_was_never_signed(place: Place) -> None:
    place.grow(3)
    place.publisher().publish()
    assert load_seen(place.private).size == 4
    place.grow(1)
    copied(place, "ledger.db", "copy.db")
    place.grow(1)
    log = place.publisher()
    log.agree(), log.remember()
    assert load_seen(place.private).size == 6 and load_seen(place.private).root == NaiveTree(place.ledger.log_leaves(0, 6)).root(0, 6)
    assert log.newest_note() == place.objects.read(NEWEST) and split_note(log.newest_note())[0].size == 4  # nothing was signed
    copied(place, "copy.db", "ledger.db")
    log = place.publisher()
    for refused in (log.agree, log.remember, log.publish):
        with pytest.raises(IntegrityError, match="has 5 log entries, but the private store .* has seen 6.*spent"):
            refused()
    assert place.ledger.log_size() == 5 and load_seen(place.private).size == 6


def test_other_entries_in_place_of_the_lost_ones_are_refused(place: Place) -> None:
    place.grow(2)
    copied(place, "ledger.db", "copy.db")
    place.grow(3)
    place.publisher().publish()
    copied(place, "copy.db", "ledger.db")
    place.ledger.append(EventRow("run-1", "other", 3, "{}"))
    place.grow(20)
    for refused in (place.publisher().agree, place.publisher().remember, place.publisher().publish):
        with pytest.raises(IntegrityError, match="begins with other entries than the 6 that the private store"):
            refused()


def test_the_published_checkpoint_refuses_an_older_ledger_with_its_older_private_store(place: Place) -> None:
    place.grow(2)
    place.publisher().publish()
    seen = place.private.get(SEEN_NAME)
    copied(place, "ledger.db", "copy.db")
    place.grow(3)
    place.publisher().publish()
    copied(place, "copy.db", "ledger.db")
    place.private.put(SEEN_NAME, seen)
    with pytest.raises(IntegrityError, match="has 3 log entries, but log/checkpoint in .* has seen 6"):
        place.publisher().agree()
    place.objects.publish(NEWEST, b"rubbish", replace=True)  # a store may say anything: only signatures count
    place.publisher().agree()


def test_a_newer_ledger_is_agreed_with_and_a_damaged_memory_is_named(place: Place) -> None:
    place.grow(2)
    first = place.publisher()
    first.publish()
    place.grow(3)
    place.publisher().publish()  # another machine
    first.agree(), first.remember()
    assert load_seen(place.private).size == 6
    reader = LogPublisher(place.ledger, place.objects)
    reader.agree()  # who cannot sign spends nothing
    place.private.put(SEEN_NAME, b'{"size":1}')
    with pytest.raises(IntegrityError, match="log/seen in the private store is damaged"):
        place.publisher().agree()
