"""The command line: the only place where results become text and errors become exit codes.

Each command imports what it calls inside its body, so that help and lists answer at once.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli import bench, doctor, hub, init, sign
from exporter.cli.options import command, trust_option
from exporter.cli.output import formatting
from exporter.cli.output.terminal import Terminal, shown
from exporter.errors import ExporterError, GateError, RecipeError, exhausted, exhaustion
from exporter.hub.errors import unsigned
from exporter.system import signals
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.artifact.report import Report
    from exporter.build.estimate import Room
    from exporter.build.pipeline import BuiltArtifact

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
    try:
        Path.cwd()
    except FileNotFoundError:  # torch's libraries would end the process without a word
        msg = "the folder that this was started in is gone: change to another one"
        raise RecipeError(msg) from None


def _command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function, and give it its place."""
    made = command(function)
    cli.add_command(made)
    return made


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
@click.option("--force", is_flag=True, help="Build anew, and replace what differs.")
@click.option(
    "--dry-run", is_flag=True, help="Tell what would be built and what it takes; build nothing."
)
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
    from exporter.build import pipeline as builder

    with terminal.progress() as progress:
        if dry_run:
            rows, room = builder.dry_run(wanted, **how, progress=progress)
        else:
            built = builder.build(wanted, **how, progress=progress)
    if dry_run:
        _say_plan(terminal, rows, room, as_json)
        return
    if as_json:
        terminal.say_json(artifacts=[_built_row(one) for one in built])
        return
    for one in built:
        terminal.say(f"{shown(one.path)}: {formatting.built(one.manifest, reused=one.reused)}")
        for line in formatting.choices(one.manifest):
            terminal.say(f"  {line}")


def _built_row(one: BuiltArtifact) -> dict[str, Any]:
    """An artifact as data, with what was foretold beside what was measured."""
    figures, reload = one.manifest.build, one.reload
    measured = {
        "size_bytes": one.manifest.size_bytes,
        "peak_rss_bytes": figures.peak_rss_bytes,
        "seconds": figures.seconds,
        "reload_rss_bytes": reload and reload["peak_rss_bytes"],
        "reload_seconds": reload and reload["seconds"],
    }
    return {
        "path": str(one.path),
        "reused": one.reused,
        "digest": one.manifest.digest,
        "size_bytes": one.manifest.size_bytes,
        "predicted": {name: one.prediction.as_row()[name] for name in measured},
        "measured": measured,
        "manifest": one.manifest.model_dump(mode="json"),
    }


def _say_plan(terminal: Terminal, rows: list[dict[str, Any]], room: Room, as_json: bool) -> None:
    if as_json:
        terminal.say_json(plan=rows, here=room.as_row())
        return
    terminal.draw(formatting.of_plan(rows))
    for row in rows:
        terminal.say(formatting.contents(row))
    terminal.say(formatting.room(room.as_row()))


@_command
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", metavar="FOLDER_OR_MANIFEST", help="Clips, instead of the recipe's own.")
@click.option("--clips", type=click.IntRange(min=1), metavar="N", help="At most so many clips.")
@click.option("--reference", metavar="ID_OR_PATH", help="Instead of the artifact's own origin.")
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="For both sides; default: all cores."
)
@click.option(
    "--summary", type=click.Path(path_type=Path), help="A file to add the verdicts to, in Markdown."
)
@trust_option
def validate(
    terminal: Terminal, paths: Sequence[Path], summary: Path | None, as_json: bool, **how: Any
) -> None:
    """Judge artifacts (or folders of them) against their original on real audio."""
    from exporter.artifact import store
    from validate import validate as judge

    with terminal.progress() as progress:
        reports = judge(paths, **how, progress=progress)
    folders = [folder for path in paths for folder in store.find(path)]
    if summary:
        with summary.open("a", encoding="utf-8") as file:
            file.write(formatting.summary(folders, reports))
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
    terminal.draw(formatting.of_reports(folders, reports))
    for folder, report in zip(folders, reports, strict=True):
        terminal.say(f"{folder.name}: {report.sentence}\n  {shown(folder / 'report.html')}")


@_command
@click.argument("artifact")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--language", metavar="CODE", help="Like en; instead of the recipe's.")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), help="Also instead.")
@click.option("--timestamps", is_flag=True, help="Show when each piece is said.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: all cores.")
@trust_option
def transcribe(
    terminal: Terminal,
    artifact: str,
    audio: Sequence[Path],
    timestamps: bool,
    threads: int | None,
    trust: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Print the text of audio files, heard by an artifact: a folder, or ORG/NAME of the Hub."""
    from exporter.runtime.transcribe import Request, transcribe_fresh

    changes = {key: value for key, value in how.items() if value is not None}
    if timestamps:
        changes["timestamps"] = True
    request = Request(artifact=artifact, audio=audio, changes=changes, threads=threads, trust=trust)
    with terminal.progress() as progress:
        transcripts = transcribe_fresh(request, progress)
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
@click.option("--allow-pickle", is_flag=True, help="Also weights in torch's own files.")
def inspect(terminal: Terminal, path: Path, allow_pickle: bool, as_json: bool) -> None:
    """Tell what an artifact is, or a checkpoint and what its builds would take."""
    from exporter.cli import inspect as overview

    facts = overview.of_path(path, allow_pickle=allow_pickle)
    if as_json:
        terminal.say_json(**facts)
        return
    rows, room = facts.pop("plan", []), facts.pop("here", None)
    for key, value in formatting.flat(facts):
        terminal.say(f"{key}: {value}")
    if rows:
        terminal.draw(formatting.of_plan(rows))
        terminal.say(formatting.room(room))


@_command
@click.option("--clear", is_flag=True, help="Remove it all.")
def cache(terminal: Terminal, clear: bool, as_json: bool) -> None:
    """List what is kept: graphs for the next build, and artifacts opened by a Hub's name."""
    from exporter.system import build_cache as kept

    freed = kept.clear() if clear else 0
    found = kept.entries()
    if as_json:
        rows = [{**vars(entry), "path": str(entry.path)} for entry in found]
        terminal.say_json(place=str(kept.place()), freed_bytes=freed, entries=rows)
        return
    if clear:
        terminal.say(f"{kept.place()}: {shown_bytes(freed)} removed")
        return
    terminal.say(f"{kept.place()}: {shown_bytes(sum(e.size_bytes for e in found))}")
    for entry in found:
        terminal.say(f"  {formatting.kept(entry)}")


@_command
def list_(terminal: Terminal, as_json: bool) -> None:
    """List recipes, kinds of target, families, and what is built in ./artifacts."""
    from exporter.cli import inspect as overview

    found = overview.of_folder(Path())
    if as_json:
        terminal.say_json(**found)
        return
    for title, rows in found.items():
        terminal.say(f"{title}:")
        for row in rows or ["none here"]:
            terminal.say("  " + (row if isinstance(row, str) else formatting.line(row)))


cli.add_command(init.init)
cli.add_command(bench.machine)
cli.add_command(bench.bench)
cli.add_command(hub.push)
cli.add_command(hub.pull)
cli.add_command(sign.sign)
cli.add_command(sign.verify)
cli.add_command(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    terminal = Terminal()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    signals.listen()
    try:
        cli.main(arguments, prog_name="exporter", standalone_mode=False, obj=terminal)
    except click.ClickException as error:
        terminal.tell(_usage(error))
        return 2
    except signals.Terminated:
        signals.leave()
        return 143
    except (click.Abort, KeyboardInterrupt):
        signals.leave()
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


def _failed(terminal: Terminal, error: Exception) -> int:
    """Tell an error in its own few lines and return its exit code."""
    code, message = _explained(error)
    if terminal.debug:
        terminal.tell(unsigned("".join(traceback.format_exception(error)).rstrip()))
    terminal.tell(f"error: {message}")
    return code


def _explained(error: Exception) -> tuple[int, str]:
    if isinstance(error, ExporterError):
        return error.exit_code, str(error)
    if exhausted(error):
        return 8, exhaustion(error)
    if isinstance(error, OSError) and error.errno in _FORBIDDEN:
        return 3, f"{error.filename}: {error.strerror}"
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return 1, f"{said}\nThis is a bug. Run `exporter --debug ...` again and report the traceback."
