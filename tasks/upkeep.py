"""What looking after a ledger needs besides storage/fsck.py and storage/repair.py: replicas by their URLs, and whose signatures count.

Called by `verilora fsck`, `verilora repair` and flows/repair.py.
"""

from collections.abc import Iterable

from storage.checkpoint import load_keys
from storage.errors import BadPlace, shown
from storage.ledger import Ledger, open_ledger
from storage.object_store import ObjectStore, open_object_store
from storage.private import open_private_store, private_store_exists
from verifier.note import Policy

_LEDGERS, _OBJECTS = ("sqlite:", "postgresql"), ("file:", "s3:")


def replicas(urls: Iterable[str]) -> tuple[list[ObjectStore], list[Ledger]]:
    """Copies of objects (file:PATH, s3://…) and of ledgers (sqlite:///PATH, postgresql+psycopg://…), opened for reading."""
    found = list(urls)
    for url in found:
        if not url.startswith(_LEDGERS + _OBJECTS):
            raise BadPlace(
                f"the copy {shown(url)} is neither objects (file:PATH, s3://BUCKET/PREFIX) nor a ledger (sqlite:///PATH, "
                "postgresql+psycopg://USER@HOST/DATABASE)"
            )
    objects = [open_object_store(url, read_only=True) for url in found if not url.startswith(_LEDGERS)]
    return objects, [open_ledger(url, read_only=True) for url in found if url.startswith(_LEDGERS)]


def own_policy(private_url: str) -> Policy | None:
    """The provider's own log key as a policy; None where the private store is not at hand or has none yet."""
    keys = load_keys(open_private_store(private_url)) if private_store_exists(private_url) else None
    return keys.policy if keys else None
