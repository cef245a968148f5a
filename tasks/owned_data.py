"""A dataset that its owner committed before the run and elsewhere: the run takes exactly that, or is refused.

Refused are another tokenizer, another sequence length, ids outside the model's vocabulary, and a ledger that has not counted the
openings that are known to be spent (whether enough are left is the planner's to say). That the file is the one that was
committed is checked when it is read (prover/files/dataset_opening.py), and by its id when the run starts. Called by tasks/plan.py.
"""

from prover.files.dataset import TokenisedDataset
from prover.files.dataset_opening import DatasetOpening
from prover.files.tokenizer import load_tokenizer, tokenizer_digest
from storage.errors import StorageError, UnknownRun
from tasks.context import RunRequest, Stores
from tasks.estimate import PlanError


def owned_dataset(request: RunRequest, opening: DatasetOpening, vocab: int) -> TokenisedDataset:
    """Exactly what the owner committed; PlanError if it does not belong to this model or this run.yaml."""
    file, digest = request.dataset_opening, tokenizer_digest(request.base_model)
    if opening.tokenizer_digest != digest:
        raise PlanError(
            f"dataset_opening: {file} was tokenised with the tokenizer.json of SHA-256 {opening.tokenizer_digest}, that of base_model "
            f"has {digest}; valid is a base model with the owner's tokenizer, or a dataset committed with this one"
        )
    if opening.sequence_length != request.sequence_length:
        raise PlanError(
            f"training.sequence_length: {request.sequence_length} is not the {opening.sequence_length} of {file}; "
            f"valid is {opening.sequence_length}"
        )
    if int(opening.tokens.max()) >= vocab:
        raise PlanError(
            f"dataset_opening: {file} holds token id {int(opening.tokens.max())}, outside the vocabulary of {vocab} of base_model; "
            "valid is the model that the owner committed for"
        )
    tokenizer = load_tokenizer(request.base_model)
    return TokenisedDataset(opening.tokens, opening.mask, digest, tokenizer.bos, tokenizer.eos)


def same_ledger(stores: Stores, opening: DatasetOpening) -> None:
    """Openings of an owner's dataset are counted in one ledger: refuse another one, as far as this private store knows."""
    if stores.private.has(f"datasets/{opening.id}"):
        earlier = stores.private.get(f"datasets/{opening.id}").decode()
        try:
            stores.ledger.run(earlier)
        except UnknownRun:
            raise StorageError(
                f"dataset_opening: run {earlier} used it with another ledger, which counts its openings: use that ledger "
                "(storage.ledger), or have the owner commit the dataset again"
            ) from None
