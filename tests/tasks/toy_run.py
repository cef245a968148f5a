"""A toy run planned without files: every task can be trained and proved in a second or two."""

from dataclasses import replace
from pathlib import Path

from prover.executor.calibrate import Calibration
from prover.executor.prepare import Prepared
from tasks.budgets import with_budgets
from tasks.context import RunContext, Stores, open_stores
from tasks.estimate import Estimate
from tasks.plan import Draft, start
from tests.toy import EVEN, toy

PROFILE = "goldilocks-2^12"


def stores(folder: Path) -> Stores:
    return open_stores(f"sqlite:///{folder / 'ledger.db'}", f"file:{folder / 'objects'}", f"file:{folder / 'private'}")


def toy_draft(visibility: str = "private", key: str = "0" * 64, profile: str = PROFILE, **others: object) -> Draft:
    found = toy(layers=1, steps=2, window_steps=1, sizes=EVEN, target_modules=("q_proj",), **others)  # type: ignore[arg-type]
    manifest = with_budgets(replace(found.manifest, profile=profile, base_visibility=visibility))
    prepared = Prepared(manifest, found.base, found.tokens, found.mask, Calibration(manifest.exponents, [], []))
    return Draft(manifest, prepared, Estimate(profile, manifest.parts, manifest.budgets, 0, ()), key)


def toy_run(folder: Path, visibility: str = "private", **others: object) -> RunContext:
    return start(stores(folder), toy_draft(visibility, **others))  # type: ignore[arg-type]
