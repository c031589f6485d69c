"""`scale serve`: a page and a read-only service over stores."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from flows.cli import console
from flows.cli.options import DataOption, DeviceOption, WeightsOption, make_settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("serve", help="Look at stores in a browser, and ask them over HTTP; read-only.")(serve)


def serve(
    stores: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STORE...",
            show_default="SCALE_STORE",
            help="Folders or s3:// gs:// az:// addresses, or NAME=ADDRESS.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen. Beyond this machine a token is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8500,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="SCALE_SERVE_TOKEN", show_default="none", help="Asked of everybody; at least 16 characters."
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            show_default="localhost and what --host says",
            help="A further host name that browsers use for this server.",
        ),
    ] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
) -> None:
    """Serve stores until Ctrl-C. Videos and frames are shown from below --data alone."""
    from flows.serve.guard import check_exposure
    from flows.serve.run import serve as run

    places = stores or [place for place in (os.environ.get("SCALE_STORE"),) if place]
    if not places:
        raise typer.BadParameter("expected at least one STORE, found none; give one, or set SCALE_STORE")
    check_exposure(host, token)
    settings = make_settings(data=data, weights=weights, device=device)
    shown = f"[{host}]" if ":" in host else host
    console.err.print(f"http://{shown}:{port}/  (Ctrl-C ends it)", markup=False)
    if settings.data is None:
        console.err.print("no --data: pages show no frames, only what the store holds", markup=False)
    run(places, settings, host=host, port=port, token=token, names=names or [])
