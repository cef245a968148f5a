"""`verilora`: the command line. Subcommands import what they need when they run, so that `verify` never loads the prover."""

import typer

from cli.adapter import adapter
from cli.audit import verify
from cli.base import base
from cli.bundle import export, submit
from cli.calibrate import calibrate
from cli.dataset import dataset
from cli.deploy import deploy, worker
from cli.ledger import ledger
from cli.log import log
from cli.maintain import fsck, links, repair
from cli.run import estimate, init, run
from cli.serve import serve

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("init")(init)
app.command("estimate")(estimate)
app.command("calibrate")(calibrate)
app.command("run")(run)
app.command("deploy")(deploy)
app.command("worker")(worker)
app.command("verify")(verify)
app.command("fsck")(fsck)
app.command("repair")(repair)
app.command("links")(links)
ledger.command("export")(export)
ledger.command("submit")(submit)
app.command("serve")(serve)
app.add_typer(dataset, name="dataset")
app.add_typer(ledger, name="ledger")
app.add_typer(log, name="log")
app.add_typer(adapter, name="adapter")
app.add_typer(base, name="base")
