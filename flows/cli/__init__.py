"""The command `scale`: any stage, any question to the store, with no server anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import Abort, Exit, TyperException

from flows.cli import (
    asking,
    care,
    console,
    demo,
    history,
    importing,
    init,
    labels,
    maps,
    ops,
    removal,
    search,
    serve,
    stages,
    store,
    sweep,
    weights,
)
from flows.cli.examples import add_examples
from pipeline.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, PipelineError, exit_code
from pipeline.outside import from_outside

MIN_BOX_COLUMNS = 64
"""A narrower terminal shows help as plain text: boxes would cut words off there."""
EXIT_TERMINATED = 128 + signal.SIGTERM

HELP = """Video representations from crop features of a frozen backbone.

Videos are decoded once into a feature store; everything after reads the store. Every command can be run again: it
does only what is missing.

Exit codes: 0 done, 1 failure, 2 wrong usage, 3 bad input, 4 done in part (or no video of use),
130 interrupted, 143 terminated.
"""

app = typer.Typer(
    name="scale", help=HELP, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipeline.store.feature_store import project_version

        console.out.print(f"scale {project_version()}", markup=False)
        raise Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself; its help is that of the application."""


demo.register(app)
init.register(app)
stages.register(app)
store.register(app)
importing.register(app)
asking.register(app)
labels.register(app)
removal.register(app)
weights.register(app)
care.register(app)
history.register(app)
search.register(app)
sweep.register(app)
maps.register(app)
ops.register(app)
serve.register(app)
add_examples(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with the code that says how it went."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # a terminal or pipe of a few letters shows the others written out
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        # As Ctrl-C: pools are closed, claims are given back.
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    code = run(arguments)
    sys.exit(EXIT_TERMINATED if terminated and code == EXIT_INTERRUPTED else code)


def run(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code."""
    app.rich_markup_mode = "rich" if shutil.get_terminal_size().columns >= MIN_BOX_COLUMNS else None
    try:
        result = app(args=list(arguments), standalone_mode=False)
        code = result if isinstance(result, int) else 0  # typer returns the code of an Exit; 130 stands for Ctrl-C
        return _interrupted() if code == EXIT_INTERRUPTED else code
    except Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, Abort):
        return _interrupted()
    except TyperException as error:
        return _wrong_usage(error)
    except PipelineError as error:
        return _report(error, arguments, exit_code(error))
    except BrokenPipeError:
        # The reader of our output (head, less) went away; stop without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:
        if (known := from_outside(error)) is not None:
            return _report(known, arguments, exit_code(known))
        if os.environ.get("SCALE_DEBUG"):
            traceback.print_exc()
        name = type(error).__name__
        console.fail(
            f"this is a fault in scale itself, not in your input: {name}: {error}. "
            "Run again with SCALE_DEBUG=1 for the traceback, and please report it."
        )
        return EXIT_FAILURE


def _wrong_usage(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    if context is not None:
        console.err.print(context.get_usage(), markup=False)
        console.err.print(f"`{context.command_path} --help` lists what there is.", markup=False)
    said = error.format_message() if hasattr(error, "format_message") else str(error)
    variable = getattr(getattr(error, "param", None), "envvar", None)
    is_absent = said.startswith("Missing ") and isinstance(variable, str)
    console.fail(f"{said.removesuffix('.')}; give it, or set {variable}" if is_absent else said)
    return EXIT_USAGE


def _interrupted() -> int:
    console.fail("interrupted. Finished shards and checkpoints are kept; run the same command again to go on.")
    return EXIT_INTERRUPTED


def _report(error: Exception, arguments: Sequence[str], code: int) -> int:
    message = str(error) or type(error).__name__
    if "--json" in arguments:
        console.print_json({"error": {"type": type(error).__name__, "message": message}})
    console.fail(message)
    return code
