"""`verilora dataset commit`: the owner of data commits to it, before a run and elsewhere (docs/data.md)."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.options import Debug, Json
from cli.output import console, emit_json, reporting

dataset = typer.Typer(no_args_is_help=True, help="Commit to data before somebody trains on it.")

Kind = Literal["auto", "text", "prompt_completion", "messages"]


@dataset.command("commit")
def dataset_commit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A JSON Lines file.")],
    profile: Annotated[str, typer.Option("--profile", help="The run's proof parameters, as `verilora estimate` names them.")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="The model's folder, or one with its tokenizer's files alone.")],
    sequence_length: Annotated[int, typer.Option("--sequence-length", min=2, max=4096, help="Tokens of an example, as in run.yaml.")],
    openings: Annotated[int, typer.Option("--openings", help="Proofs that may open it: `verilora estimate` prints the budget of a run.")],
    owner: Annotated[str, typer.Option("--owner", help="Whose data it is; public.")],
    out: Annotated[Path, typer.Option("--out", help="A folder for the opening and the public id; nothing in it is replaced.")],
    kind: Annotated[Kind, typer.Option("--format", help="What the lines hold; auto takes that of the first line.")] = "auto",
    packing: Annotated[bool, typer.Option("--packing", help="Documents one after another instead of one a row.")] = False,
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Tokenise and commit; write the secret opening for whoever trains, and the public id for the order."""
    from prover.files.dataset import load_dataset
    from prover.files.dataset_opening import commit_dataset, write_opening

    with reporting(debug):
        found = load_dataset(file, tokenizer, sequence_length, kind, packing)
        opening = commit_dataset(found, owner, profile, openings)
        secret, public = write_opening(out, opening)
        if as_json:
            emit_json(opening.public() | {"opening": str(secret), "public": str(public)})
            return
        lines = (
            f"dataset {opening.id}",
            f"{len(found.tokens)} examples of {sequence_length} tokens, {int(found.mask.sum())} of them learnt",
            f"{openings} openings with {profile}",
            f"wrote {public}: public; in an order: commitments: {{dataset: {opening.id}}}",
            f"wrote {secret}: secret; for whoever trains (run.yaml: dataset_opening), to be used with one ledger only",
        )
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
