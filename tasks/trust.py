"""What an auditor brings along: the order, the policy of trusted log keys, and the checkpoint that was seen before.

TrustError says which file cannot be used and why. Called by `verilora verify` and flows/verify.py.
"""

from pathlib import Path
from typing import Any

import yaml

from protocol.errors import VerificationError
from verifier.evidence import read_checkpoint
from verifier.note import Checkpoint, Policy, parse_policy


class TrustError(Exception):
    """An order, policy or remembered checkpoint that cannot be read."""


def read_order(path: Path) -> dict[str, Any]:
    """The order as nested text: YAML without types, so that 0.10 stays 0.10 and no date or boolean is guessed."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # strings, lists and mappings only
    except FileNotFoundError:
        raise TrustError(f"{path}: there is no such file. `verilora ledger show RUN --order` prints one to start from") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrustError(f"{path} cannot be read as an order: {error}") from None
    if not isinstance(data, dict) or not data:
        raise TrustError(f"{path} holds no mapping. `verilora ledger show RUN --order` prints one to start from")
    return data


def read_policy(path: Path) -> Policy:
    """Trusted log keys and cosigners."""
    try:
        return parse_policy(path.read_bytes())
    except OSError as error:
        raise TrustError(f"{path} cannot be read: {error.strerror}") from None
    except VerificationError as error:
        raise TrustError(f"{path} cannot be used: {error}") from None


def read_seen(path: Path, policy: Policy | None) -> Checkpoint | None:
    """The checkpoint that an earlier verification kept; None on the first."""
    if not path.exists():
        return None
    try:
        return read_checkpoint(path.read_bytes(), policy)
    except OSError as error:
        raise TrustError(f"{path} cannot be read: {error.strerror}") from None
    except VerificationError as error:
        raise TrustError(f"{path} cannot be used: {error}") from None
