"""`verilora`: the command line. Subcommands import what they need when they run, so that `verify` never loads the prover."""

import typer

from cli.adapter import adapter
from cli.audit import verify
from cli.ledger import ledger
from cli.run import estimate, init, run

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("init")(init)
app.command("estimate")(estimate)
app.command("run")(run)
app.command("verify")(verify)
app.add_typer(ledger, name="ledger")
app.add_typer(adapter, name="adapter")
