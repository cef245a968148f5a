"""Plan a run: from what was asked for to a manifest, commitments to everything known at the start, and its first rows.

    request → model, dataset → integers, exponents → budgets → profile → commitments → manifest → run id

The plan is kept in the private store under a key derived from the request and the files' digests: the same run.yaml on the
same files is the same run, resumed or, if finished, left alone. Secrets are written first, then the plan, then ledger rows,
then a mark that the ledger has them; a plan with that mark whose run the ledger lacks is refused, because openings already
spent would be forgotten. Called by flows/.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from protocol.encoding import canonical_json, parse_canonical, tagged_digest
from protocol.errors import VerificationError
from protocol.manifest import Lora, Optimizer, RunManifest, base_commitments
from protocol.relation.graph import IntArray
from protocol.statement import PUBLIC_BASE, Name, commitment_layout
from prover.backend.base import Backend
from prover.commitment.commit import commit
from prover.executor.prepare import Prepared, prepare
from prover.files.dataset import load_dataset
from prover.files.hf_model import open_model
from prover.randomness import fresh_seed
from storage.errors import StorageError, UnknownRun
from storage.models import RunRow
from tasks.context import RunContext, RunRequest, Stores, commitment_row
from tasks.deliver import folder, save_committed
from tasks.estimate import Estimate, PlanError, choose, with_budgets

RUN_ID_DIGITS = 16
PUBLIC_SEED = tagged_digest("public-base-salts/1")  # a public base has no blinding: anyone recomputes its commitment ids


@dataclass(frozen=True)
class Draft:
    """A run whose size is known, nothing committed; `manifest` lacks commitments alone."""

    manifest: RunManifest
    prepared: Prepared
    estimate: Estimate
    key: str


def draft(request: RunRequest, key: str) -> Draft:
    """Read the files, calibrate, choose the profile. PlanError, ModelFileError or DatasetError says what is wrong."""
    model = open_model(request.base_model)
    dataset = load_dataset(request.dataset, request.base_model, request.sequence_length)
    examples = len(dataset.tokens)
    if request.batch_size > examples:
        raise PlanError(
            f"training.batch_size: {request.batch_size} is more than the {examples} examples of {request.dataset}; valid is 1 to {examples}"
        )
    steps = request.epochs * (examples // request.batch_size)
    steps = steps if request.max_steps is None else min(steps, request.max_steps)
    try:
        prepared = prepare(
            model, dataset, name=request.base_model.name, lora=Lora(request.r, request.lora_alpha, request.target_modules),
            optimizer=Optimizer("sgd", request.momentum, request.learning_rate), batch_size=request.batch_size, steps=steps,
            window_steps=min(request.window_steps, steps), seed=request.seed, publish_loss=request.publish_loss,
            base_visibility=request.base_visibility, profile="",
        )
        manifest = with_budgets(prepared.manifest)
        estimate = choose(manifest, request.soundness_bits)
    except VerificationError as error:
        raise PlanError(f"this run.yaml cannot be made into a run: {error}") from error
    return Draft(replace(manifest, profile=estimate.profile), prepared, estimate, key)


def plan_key(request: RunRequest) -> str:
    """Equal for equal requests on equal files, wherever they lie. Reads all of the files."""
    content = asdict(request) | {
        "target_modules": list(request.target_modules), "max_steps": request.max_steps or 0,
        "base_model": _folder_digest(request), "dataset": _file_digest(request.dataset),
    }
    return tagged_digest("plan/1", canonical_json(content)).hex()


def _folder_digest(request: RunRequest) -> str:
    files = sorted(p for p in request.base_model.glob("*") if p.suffix in (".json", ".safetensors") and p.is_file())
    return tagged_digest("model-files", *(part for p in files for part in (p.name.encode(), _file_digest(p).encode()))).hex()


def _file_digest(path: object) -> str:
    try:
        with open(str(path), "rb") as file:
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


def start(stores: Stores, drafted: Draft, backend: Backend | None = None) -> RunContext:
    """Commit to model and dataset under fresh seeds, then record the run."""
    context = RunContext(stores, "", drafted.manifest, backend)
    tensors: Mapping[str, Mapping[str, IntArray]] = {
        **drafted.prepared.base, "dataset": {"tokens": drafted.prepared.tokens, "mask": drafted.prepared.mask},
    }
    public = drafted.manifest.base_visibility == "public"
    seeds, roots, ids = {}, {}, {}
    for text in base_commitments(drafted.manifest.model):
        name = Name(text)
        seeds[text] = PUBLIC_SEED if public and name.kind in PUBLIC_BASE else fresh_seed()
        layout = commitment_layout(drafted.manifest, name)
        roots[text] = commit(context.backend, layout, tensors[text], seeds[text]).root
        ids[text] = layout.identity(roots[text])
    manifest = replace(drafted.manifest, commitments=ids)
    run_id = manifest.digest()[:RUN_ID_DIGITS]
    for text, seed in seeds.items():
        save_committed(stores.private, run_id, Name(text), seed, tensors[text])
    plan = {"run_id": run_id, "manifest": manifest.to_json().decode(), "roots": {k: v.hex() for k, v in roots.items()}}
    stores.private.put(f"plans/{drafted.key}", canonical_json(plan))
    context = RunContext(stores, run_id, manifest, context.backend)
    _record(context, roots)
    return context


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
        return
    text = context.manifest.to_json().decode()
    ledger.append(RunRow(context.run_id, hashlib.sha256(text.encode()).hexdigest(), text))
    for name, root in sorted(roots.items()):
        ledger.append(commitment_row(context.manifest, context.run_id, Name(name), root))
    private.put(mark, b"1")
