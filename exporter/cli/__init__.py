"""The command line: the only place where results become text and errors become exit codes.

Each command imports what it calls inside its body, so that help and lists answer at once.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import click

from exporter import __version__
from exporter.cli import (
    bench,
    build,
    doctor,
    hub,
    init,
    inspect,
    machine,
    sign,
    transcribe,
    tune,
    validate,
)
from exporter.cli.output.terminal import Terminal
from exporter.errors import (
    EXIT_CODES,
    CheckpointError,
    ExporterError,
    RecipeError,
    ResourceError,
    exhausted,
    exhaustion,
)
from exporter.hub.errors import unsigned
from exporter.system import signals

_FORBIDDEN = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}
_WORK = (
    "init openai/whisper-small",
    "build recipes/whisper-small-int8.yaml",
    "validate artifacts/whisper-small-int8",
    "tune recipes/whisper-small-int8.yaml --clips calibration",
    "transcribe artifacts/whisper-small-int8/onnx-int8 speech.flac",
    "push artifacts/whisper-small-int8 --repo ORG/NAME",
)
# The first line, "\b", keeps click from rewrapping the others.
_EPILOG = "\n".join(
    [
        *("\b", "Examples:", *(f"  exporter {line}" for line in _WORK), ""),
        *("\b", "Exit codes:", *(f"  {code:<3}  {text}" for code, text in EXIT_CODES.items())),
    ]
)


class _InOrder(click.Group):
    """A group that lists its commands in the order of work, in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="exporter")
@click.option("--debug", is_flag=True, help="Show tracebacks and library output.")
@click.pass_obj
def cli(terminal: Terminal, debug: bool) -> None:
    """Export speech-recognition models, and validate each export on real audio."""
    terminal.debug = debug
    try:
        Path.cwd()
    except FileNotFoundError:  # libraries of torch would end the process without a message
        msg = "the working directory no longer exists: change to another one"
        raise RecipeError(msg) from None


for _each in (
    *(machine.machine, init.init, build.build, validate.validate, tune.tune),
    *(
        transcribe.transcribe,
        bench.bench,
        inspect.inspect,
        inspect.list_,
        sign.sign,
        sign.verify,
        hub.push,
        hub.pull,
    ),
    *(doctor.doctor, inspect.cache),
):
    cli.add_command(_each)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with closing(Terminal()) as terminal:
        signals.listen()
        code, message = _run(terminal, given)
        error = {"message": message, "exit_code": code} if code and "--json" in given else None
        with suppress(SystemExit):  # nobody reads the result
            terminal.finish(error)
        return code


def _run(terminal: Terminal, arguments: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code and the message that was printed for an error."""
    try:
        cli.main(arguments, prog_name="exporter", standalone_mode=False, obj=terminal)
    except click.ClickException as error:
        terminal.tell(_usage(error))
        return RecipeError.exit_code, error.format_message()
    except signals.Terminated:
        signals.leave()
        return 143, "terminated"
    except (click.Abort, KeyboardInterrupt):
        signals.leave()
        terminal.tell("interrupted")
        return 130, "interrupted"
    except Exception as error:
        code, message = _explained(error)
        if terminal.debug:
            terminal.tell(unsigned("".join(traceback.format_exception(error)).rstrip()))
        terminal.tell(f"error: {message}")
        return code, message
    return 0, ""


def _usage(error: click.ClickException) -> str:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "exporter"
    return f"error: {error.format_message()}\nSee `{command} --help`."


def _explained(error: Exception) -> tuple[int, str]:
    if isinstance(error, ExporterError):
        full = exhausted(error.__cause__)
        return ResourceError.exit_code if full else error.exit_code, str(error)
    if exhausted(error):
        return ResourceError.exit_code, exhaustion(error)
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return CheckpointError.exit_code, f"{error.filename}: {error.strerror}"
    summary = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return (
        1,
        f"{summary}\nThis is a bug. Run `exporter --debug ...` again and report the traceback.",
    )
