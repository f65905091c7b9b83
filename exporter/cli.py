"""The command line: the only place where results become text and errors become exit codes.

Each command imports what it calls inside its body, so that help and lists answer at once.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from exporter.errors import ExporterError, GateError, exhausted
from exporter.progress import shown_bytes
from exporter.terminal import Terminal, shown

if TYPE_CHECKING:
    from exporter.artifact import Manifest
    from exporter.report import Report

_FORBIDDEN = {
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="exporter")
@click.option("--debug", is_flag=True, help="Show tracebacks and what libraries print.")
@click.pass_obj
def cli(terminal: Terminal, debug: bool) -> None:
    """Turn a speech checkpoint into artifacts, and prove each as good as the original."""
    terminal.debug = debug


def _command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function; libraries are kept quiet while it runs."""

    def run(terminal: Terminal, /, **options: Any) -> None:
        with terminal.quiet():
            function(terminal, **options)

    functools.update_wrapper(run, function)
    json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return cli.command(name=function.__name__.rstrip("_"))(json_option(click.pass_obj(run)))


@_command
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="artifacts",
    show_default=True,
    help="The folder that holds a folder per recipe.",
)
@click.option("--checkpoint", metavar="ID_OR_PATH", help="Instead of the recipe's own.")
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="Only this one; repeatable."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Like decoding.num_beams=5."
)
@click.option("--force", is_flag=True, help="Replace an artifact that differs.")
@click.option("--dry-run", is_flag=True, help="Tell what would be built, and build nothing.")
def build(
    terminal: Terminal,
    recipe: Path,
    overrides: Sequence[str],
    dry_run: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Build a recipe's artifacts into OUTPUT/<recipe>/<target>."""
    from exporter.recipe import read

    wanted = read(recipe, overrides)  # before torch is loaded, so that a typo is told at once
    from exporter import build as builder

    if dry_run:
        _say_plan(terminal, builder.plan(wanted, **how), as_json)
        return
    with terminal.progress() as progress:
        built = builder.build(wanted, **how, progress=progress)
    if as_json:
        rows = [
            {
                "path": str(one.path),
                "reused": one.reused,
                "digest": one.manifest.digest,
                "size_bytes": one.manifest.size_bytes,
                "manifest": one.manifest.model_dump(mode="json"),
            }
            for one in built
        ]
        terminal.say_json(artifacts=rows)
        return
    for one in built:
        terminal.say(f"{shown(one.path)}: {_built(one.manifest, reused=one.reused)}")


def _built(manifest: Manifest, *, reused: bool) -> str:
    if reused:
        return f"{shown_bytes(manifest.size_bytes)}, already built from this recipe and checkpoint"
    cost = f"{manifest.build.seconds:.0f} s, {shown_bytes(manifest.build.peak_rss_bytes)} of memory"
    return f"{shown_bytes(manifest.size_bytes)}, built in {cost}"


def _say_plan(terminal: Terminal, plan: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        terminal.say_json(plan=plan)
        return
    for step in plan:
        terminal.say("\n".join(f"{key}: {value}" for key, value in _flat(step)) + "\n")


@_command
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", metavar="FOLDER_OR_MANIFEST", help="Clips, instead of the recipe's own.")
@click.option("--clips", type=click.IntRange(min=1), metavar="N", help="At most so many clips.")
@click.option("--reference", metavar="ID_OR_PATH", help="Instead of the artifact's own origin.")
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="For both sides; default: all cores."
)
def validate(terminal: Terminal, paths: Sequence[Path], as_json: bool, **how: Any) -> None:
    """Judge artifacts (or folders of them) against their original on real audio."""
    from exporter import artifact
    from validate import validate as judge

    with terminal.progress() as progress:
        reports = judge(paths, **how, progress=progress)
    folders = [folder for path in paths for folder in artifact.find(path)]
    if as_json:
        rows = [
            {"path": str(folder), "report": report.model_dump(mode="json")}
            for folder, report in zip(folders, reports, strict=True)
        ]
        terminal.say_json(reports=rows)
    else:
        _say_reports(terminal, folders, reports)
    bad = [
        f"{folder.name} {report.verdict}"
        for folder, report in zip(folders, reports, strict=True)
        if report.verdict != "passed"
    ]
    if bad:
        msg = f"{len(bad)} of {len(reports)} artifacts did not pass the gate: {', '.join(bad)}"
        raise GateError(msg)


def _say_reports(terminal: Terminal, folders: list[Path], reports: list[Report]) -> None:
    from rich import box
    from rich.table import Table

    columns = (
        "size (of float32)",
        "original WER",
        "WER",
        "points, 95 %",
        "latency",
        "RTF",
        "load",
        "memory",
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("artifact", no_wrap=True)
    for title in columns:
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for folder, report in zip(folders, reports, strict=True):
        table.add_row(f"{report.artifact.recipe}/{folder.name}", *_figures(report))
    terminal.draw(table)
    for folder, report in zip(folders, reports, strict=True):
        terminal.say(f"{folder.name}: {report.sentence}\n  {shown(folder / 'report.html')}")


def _figures(report: Report) -> Iterator[str]:
    """One row's cells, in the order of the columns."""
    original, ours, points = report.reference_figures, report.figures, report.wer_difference
    yield f"{shown_bytes(ours.size_bytes)} ({ours.size_bytes / original.size_bytes:.0%})"
    yield f"{original.wer:.2%}"
    yield f"{ours.wer:.2%}"
    yield f"{points.value * 100:+.2f} [{points.low * 100:+.2f}, {points.high * 100:+.2f}]"
    yield f"x {report.latency_ratio.value:.2f}"
    yield f"{ours.rtf:.3f}"
    yield f"{ours.load_s:.2f} s"
    yield shown_bytes(ours.peak_rss_bytes)
    yield report.verdict


@_command
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Like en; instead of the recipe's.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Also instead.")
@click.option("--timestamps", is_flag=True, help="Show when each piece is said.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: all cores.")
def transcribe(
    terminal: Terminal,
    artifact: Path,
    audio: Sequence[Path],
    timestamps: bool,
    threads: int | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Print the text of audio files, heard by an artifact."""
    from exporter import runtime

    recogniser = runtime.load(artifact, threads=threads)
    given = {key: value for key, value in how.items() if value is not None}
    if timestamps:
        given["timestamps"] = True
    decoding = recogniser.decoding.model_copy(update=given)
    transcripts = recogniser.transcribe(list(audio), decoding)
    if as_json:
        rows = [
            {"audio": str(path), "text": said.text, "segments": [vars(s) for s in said.segments]}
            for path, said in zip(audio, transcripts, strict=True)
        ]
        terminal.say_json(transcripts=rows)
        return
    for path, said in zip(audio, transcripts, strict=True):
        name = f"{path}: " if len(audio) > 1 else ""
        if not timestamps:
            terminal.say(f"{name}{said.text.strip()}")
        for segment in said.segments if timestamps else ():
            span = f"[{segment.start_s:.2f} - {segment.end_s:.2f}]"
            terminal.say(f"{name}{span} {segment.text.strip()}")


@_command
@click.argument("path", type=click.Path(path_type=Path))
def inspect(terminal: Terminal, path: Path, as_json: bool) -> None:
    """Tell what an artifact or a checkpoint is."""
    from exporter import overview

    facts = overview.of_path(path)
    if as_json:
        terminal.say_json(**facts)
        return
    for key, value in _flat(facts):
        terminal.say(f"{key}: {value}")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Spread nested mappings into dotted keys, one line each."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif key == "files":
            for file in value:
                yield f"{prefix}file", f"{file['path']} ({shown_bytes(file['size_bytes'])})"
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value)) or "none"
        elif value is None:
            yield prefix + key, "none"
        else:
            yield prefix + key, shown_bytes(value) if key.endswith("_bytes") else str(value)


@_command
def list_(terminal: Terminal, as_json: bool) -> None:
    """List recipes, kinds of target, families, and what is built in ./artifacts."""
    from exporter import overview

    found = overview.of_folder(Path())
    if as_json:
        terminal.say_json(**found)
        return
    for title, rows in found.items():
        terminal.say(f"{title}:")
        for row in rows or ["none here"]:
            terminal.say("  " + (row if isinstance(row, str) else _line(row)))


def _line(row: Mapping[str, Any]) -> str:
    """One row of a list; its first value is a path."""
    path, *rest = (text for _, text in _flat(row))
    return f"{path}: {', '.join(rest)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    terminal = Terminal()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(arguments, prog_name="exporter", standalone_mode=False, obj=terminal)
    except click.ClickException as error:
        terminal.tell(_usage(error))
        return 2
    except click.Abort:
        terminal.tell("interrupted")
        return 130
    except Exception as error:
        return _failed(terminal, error)
    return 0


def _usage(error: click.ClickException) -> str:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "exporter"
    return f"error: {error.format_message()}\nSee `{command} --help`."


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)  # an exception, so that half-built folders are removed on the way out


def _failed(terminal: Terminal, error: Exception) -> int:
    """Tell an error in its own few lines and return its exit code."""
    code, message = _explained(error)
    if terminal.debug:
        terminal.tell("".join(traceback.format_exception(error)).rstrip())
    terminal.tell(f"error: {message}")
    return code


def _explained(error: Exception) -> tuple[int, str]:
    if isinstance(error, ExporterError):
        return error.exit_code, str(error)
    if exhausted(error):
        return 8, f"out of disk or memory: {str(error) or 'memory'}"
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return 3, f"{error.filename}: {error.strerror}"
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return 1, f"{said}\nThis is a bug. Run `exporter --debug ...` again and report the traceback."
