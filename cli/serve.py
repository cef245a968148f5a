"""`verilora serve`: the read-only API and pages for auditors over one ledger and its object store."""

from typing import Annotated

import typer

from cli.options import Config, Debug, LedgerUrl, ObjectsUrl, places
from cli.output import USAGE, complain, errors, reporting

CONCURRENT = 100  # connections that are served at once; more get a 503


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8321,
    config: Config = None, ledger_url: LedgerUrl = None, objects_url: ObjectsUrl = None, debug: Debug = False,
) -> None:
    """Serve pages and JSON about a ledger, read-only. On PostgreSQL give --ledger with the role verilora_reader."""
    import uvicorn

    from api.app import create_app, open_services

    with reporting(debug):
        where, objects = places(config, ledger_url, objects_url)
        if not objects:
            raise complain("--ledger needs --objects: where the proofs are, file:PATH or s3://BUCKET", USAGE)
        services = open_services(where, objects)
        if services.rows.may_write():
            errors.print(
                "[yellow]warning:[/] this database role may write. This service never does, but give it a role that cannot: "
                "verilora_reader, or a member of it", soft_wrap=True, highlight=False,
            )
        server = uvicorn.Config(
            create_app(services), host=host, port=port, log_level="debug" if debug else "info", limit_concurrency=CONCURRENT,
            timeout_keep_alive=5, server_header=False, date_header=True,
        )
        errors.print(f"ledger pages: http://{f'[{host}]' if ':' in host else host}:{port}/  (Ctrl-C ends)", highlight=False, markup=False)
        uvicorn.Server(server).run()
