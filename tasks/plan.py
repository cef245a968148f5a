"""Plan a run: from what was asked for to a manifest, commitments to everything known at the start, and its first rows.

    request → model, dataset → integers, exponents → budgets → profile → commitments → manifest → run id

The plan is kept in the private store, created once, under a key derived from the request and the files' digests: the same run.yaml
on the same files is the same run, resumed or, if finished, left alone. Secrets are written first, then the plan, then ledger rows,
then a mark that the ledger has them; a plan with that mark whose run the ledger lacks is refused, because openings already
spent would be forgotten, and so is a ledger that lacks later rows (storage/log.py). Called by flows/.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from protocol.encoding import canonical_json, parse_canonical, tagged_digest
from protocol.errors import VerificationError
from protocol.manifest import RunManifest, base_commitments
from protocol.params import PROFILES
from protocol.relation.graph import IntArray
from protocol.statement import PUBLIC_BASE, Name, commitment_layout
from prover.backend import select
from prover.backend.base import Backend
from prover.backend.memory import shares
from prover.commitment.commit import commit
from prover.cost.machine import memory_bytes, resident_bytes
from prover.cost.work import EVERYTHING, Place
from prover.executor.prepare import Prepared, prepare
from prover.executor.quantisation import QuantisationError, quantisation_error
from prover.files.dataset import load_dataset
from prover.files.dataset_opening import DatasetOpening, read_opening
from prover.files.hf_model import open_model
from prover.progress import Tell, silent
from prover.randomness import fresh_seed
from storage.derive import commitment_row
from storage.errors import StorageError, UnknownRun
from storage.models import RunRow
from tasks.budgets import OwnedBudget
from tasks.context import RunContext, RunRequest, Stores
from tasks.deliver import folder, save_committed
from tasks.estimate import Estimate, PlanError, choose
from tasks.fitting import divisors, fewest_parts, require_memory
from tasks.gpu_fault import fault_told
from tasks.owned_data import owned_dataset, same_ledger
from tasks.shortage import COMMITTING, PLANNING, shortage_told

PUBLIC_SEED = tagged_digest("public-base-salts/1")  # a public base has no blinding: anyone recomputes its commitment ids


@dataclass(frozen=True)
class Draft:
    """A run whose size is known, nothing committed; `manifest` lacks commitments alone. `opening`: its owner's dataset; `room`: the
    memory that its tasks fit in."""

    manifest: RunManifest
    prepared: Prepared
    estimate: Estimate
    key: str
    opening: DatasetOpening | None = None
    room: "Room | None" = None


@dataclass(frozen=True)
class Room:
    """Memory of a backend's device that a prover may use, and what of it the program itself takes; `memory` is all that it has, if
    that is more; `said` tells whose word `limit` is."""

    backend: str
    limit: int
    program: int
    memory: int = 0
    said: str = ""

    @staticmethod
    def here(backend: Backend) -> "Room":
        """This process's own. A tenth is left to what is not counted: commitments of earlier tasks, tables of the field, contexts on a
        GPU, and on a host other programs and holes in the heap (docs/log.md)."""
        memory, processes = memory_bytes(backend.name), shares()
        said = f"for each of {processes} processes" if processes > 1 else ""
        return Room(backend.name, memory * 9 // 10, resident_bytes(backend.name), memory, said)


def draft(
    request: RunRequest, key: str, spent: Callable[[str], int] = lambda identity: 0, room: Room | None = None, tell: Tell = silent,
) -> Draft:
    """Read the files, calibrate, choose the profile. PlanError, ModelFileError or DatasetError says what is wrong.

    `spent` tells how many openings of a commitment id the ledger has counted: an owner's dataset may have been used before.
    Without `room` nobody asks whether the tasks fit in memory. `tell` hears what is being done.
    """
    with shortage_told("planning", PLANNING):
        return _draft(request, key, spent, room, tell)


def _draft(request: RunRequest, key: str, spent: Callable[[str], int], room: Room | None, tell: Tell) -> Draft:
    model = open_model(request.base_model)
    tell("reading the dataset")
    opening = None if request.dataset_opening is None else read_opening(request.dataset_opening)
    dataset = owned_dataset(request, opening, model.config.vocab) if opening else load_dataset(
        _given(request.dataset), request.base_model, request.sequence_length, request.data_format, request.packing
    )
    steps = _steps(request, len(dataset.tokens))
    try:
        prepared = prepare(
            model, dataset, name=request.base_model.name, lora=request.lora, optimizer=request.optimizer,
            batch_size=request.batch_size, gradient_accumulation=request.gradient_accumulation, steps=steps,
            window_steps=min(request.window_steps, steps), seed=request.seed, publish_loss=request.publish_loss,
            base_visibility=request.base_visibility, weight_bits=request.weight_bits, weight_scales=request.weight_scales,
            headroom=request.headroom, dataset_owner=opening.owner if opening else "", profile="", tell=tell,
        )
        owned = OwnedBudget(opening.openings, opening.openings - spent(opening.id)) if opening else None
        profiles = (opening.profile,) if opening else tuple(PROFILES)
        place = Place.of(room.backend, room.memory or room.limit) if room else EVERYTHING

        @cache
        def estimated(parts: int) -> Estimate:
            tell(f"counting the work of every task{f', a step in {parts} parts' if parts > 1 else ''}")
            return choose(replace(prepared.manifest, parts=parts), request.soundness_bits, profiles, owned, request.spare_openings, place)

        parts = request.parts or 1
        if room and not request.parts:
            parts = fewest_parts(prepared.manifest.sequences, lambda n: estimated(n).memory + room.program <= room.limit)
        estimate = estimated(parts)
        if room:
            require_memory(replace(prepared.manifest, parts=parts), estimate, room.limit, room.program, place, room.said, tell)
    except VerificationError as error:
        raise PlanError(f"this run.yaml cannot be made into a run: {error}") from error
    chosen = {name: getattr(estimate, name) for name in ("profile", "parts", "budgets", "rotation_windows")}
    return Draft(replace(prepared.manifest, **chosen), prepared, estimate, key, opening, room)


def quantisation_loss(request: RunRequest, drafted: Draft) -> QuantisationError:
    """What the base model loses by its weights becoming integers, on the run's first batches, before any training."""
    found = drafted.prepared
    with shortage_told("measuring what quantisation costs", PLANNING):
        return quantisation_error(open_model(request.base_model), found.manifest, found.base, found.tokens, found.mask)


def _given(dataset: Path | None) -> Path:
    if dataset is None:
        raise PlanError("dataset: missing; give the path of a JSON Lines file, or dataset_opening")
    return dataset


def _steps(request: RunRequest, examples: int) -> int:
    """Steps of the whole run; an epoch's incomplete one is dropped."""
    sequences = request.batch_size * request.gradient_accumulation
    if sequences > examples:
        data = request.dataset_opening or request.dataset
        raise PlanError(
            f"training.batch_size: {request.batch_size} with gradient_accumulation {request.gradient_accumulation} is more than the "
            f"{examples} examples of {data}; valid is a product from 1 to {examples}"
        )
    if request.parts and sequences % request.parts:
        raise PlanError(f"audit.parts: {request.parts} does not divide the {sequences} sequences of a step (training.batch_size times "
                        f"gradient_accumulation); valid is 0, for as few as fit in memory, or one of {divisors(sequences)}")
    steps = request.epochs * (examples // sequences)
    steps = steps if request.max_steps is None else min(steps, request.max_steps)
    if request.optimizer.warmup_steps > steps:
        raise PlanError(f"training.warmup_steps: {request.optimizer.warmup_steps} is more than the run's {steps} steps; "
                        f"valid is 0 to {steps}")
    return steps


def plan_key(request: RunRequest) -> str:
    """Equal for equal requests on equal files, wherever they lie. Reads all of the files."""
    content = asdict(request) | {
        "lora": asdict(request.lora) | {"target_modules": list(request.lora.target_modules)}, "max_steps": request.max_steps or 0,
        "base_model": _folder_digest(request), "dataset": _file_digest(request.dataset),
        "dataset_opening": _file_digest(request.dataset_opening),
    }
    return tagged_digest("plan/2", canonical_json(content)).hex()


def _folder_digest(request: RunRequest) -> str:
    files = sorted(p for p in request.base_model.glob("*") if p.suffix in (".json", ".jinja", ".safetensors") and p.is_file())
    return tagged_digest("model-files", *(part for p in files for part in (p.name.encode(), _file_digest(p).encode()))).hex()


def _file_digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"  # the reader of the file says what is wrong with it


def planned(stores: Stores, key: str, backend: Backend | None = None) -> RunContext | None:
    """The run that the request of this key has already become, or None."""
    name = f"plans/{key}"
    if not stores.private.has(name):
        return None
    plan = parse_canonical(stores.private.get(name), "plan")
    manifest = RunManifest.from_json(plan["manifest"].encode())
    context = RunContext(stores, plan["run_id"], manifest, backend)
    _record(context, {k: bytes.fromhex(v) for k, v in plan["roots"].items()})
    return context


def start(stores: Stores, drafted: Draft, backend: Backend | None = None, tell: Tell = silent) -> RunContext:
    """Commit to model and dataset under fresh seeds (an owner's dataset: under its seed), then record the run."""
    backend = backend or select()
    what = "committing to model and dataset"
    with shortage_told(what, COMMITTING, backend), fault_told(what):
        return _start(stores, drafted, backend, tell)


def _start(stores: Stores, drafted: Draft, backend: Backend, tell: Tell) -> RunContext:
    if drafted.opening:
        same_ledger(stores, drafted.opening)
    context = RunContext(stores, "", drafted.manifest, backend)
    dataset = {"tokens": drafted.prepared.tokens, "mask": drafted.prepared.mask}

    def tensors(text: str) -> Mapping[str, IntArray]:
        return dataset if text == "dataset" else drafted.prepared.base[text]

    public = drafted.manifest.base_visibility == "public"
    seeds, roots, ids = {}, {}, {}
    for text in base_commitments(drafted.manifest.model):
        name = Name(text)
        owned = drafted.opening.seed if drafted.opening and text == "dataset" else None
        seeds[text] = PUBLIC_SEED if public and name.kind in PUBLIC_BASE else owned or fresh_seed()
        layout = commitment_layout(drafted.manifest, name)
        tell(f"committing to {text}")
        roots[text] = commit(context.backend, layout, tensors(text), seeds[text]).root
        ids[text] = layout.identity(roots[text])
    if drafted.opening and ids["dataset"] != drafted.opening.id:
        raise PlanError(f"dataset_opening: its id {drafted.opening.id} would be {ids['dataset']} here; have its owner commit again")
    manifest = replace(drafted.manifest, commitments=ids)
    run_id = manifest.run_id
    for text, seed in seeds.items():
        tell(f"keeping the secrets of {text}")
        save_committed(stores.private, run_id, Name(text), roots[text].hex(), seed, tensors(text))
    plan = {"run_id": run_id, "manifest": manifest.to_json().decode(), "roots": {k: v.hex() for k, v in roots.items()}}
    stores.private.create(f"plans/{drafted.key}", canonical_json(plan))
    found = planned(stores, drafted.key, context.backend)
    if found is None:
        raise StorageError(f"plans/{drafted.key} has vanished from the private store: start the same command again")
    return found  # of two that plan at once the first one's stands


def _record(context: RunContext, roots: Mapping[str, bytes]) -> None:
    """Append the run and its first commitments; refuse a ledger that has forgotten a recorded run."""
    ledger, private, mark = context.stores.ledger, context.stores.private, f"{folder(context.run_id)}/recorded"
    if private.has(mark):
        try:
            ledger.run(context.run_id)
        except UnknownRun:
            raise StorageError(
                f"run {context.run_id} was started with another ledger, and openings spent there must not be spent again: "
                "use that ledger (storage.ledger), or set storage.private to an empty folder to start a new run"
            ) from None
        context.stores.log.agree()
        return
    context.stores.log.agree()
    text = context.manifest.to_json().decode()
    ledger.append(RunRow(context.run_id, hashlib.sha256(text.encode()).hexdigest(), text))
    for name, root in sorted(roots.items()):
        ledger.append(commitment_row(context.manifest, context.run_id, Name(name), root))
    if context.manifest.dataset_owner:
        private.put(f"datasets/{context.manifest.commitments['dataset']}", context.run_id.encode())
    context.stores.log.publish()
    private.put(mark, b"1")
