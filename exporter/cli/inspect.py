"""The inspect, list and cache commands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.cli.options import command, complete_artifacts
from exporter.cli.output import formatting
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.cli.output.terminal import Terminal
    from exporter.system.build_cache import Entry


@command("artifacts/whisper-demo-int8/onnx-int8", "openai/whisper-small", extra="hub")
@click.argument("path", type=click.Path(path_type=Path), shell_complete=complete_artifacts)
@click.option("--allow-pickle", is_flag=True, help="Also read weights in pytorch_model.bin.")
def inspect(terminal: Terminal, path: Path, allow_pickle: bool, as_json: bool) -> None:
    """Show an artifact, or what builds of a checkpoint would take.

    PATH is an artifact, or a checkpoint: a folder or a Hub id. Nothing is hashed.
    """
    from exporter.cli.output import facts as overview

    facts = overview.of_path(path, allow_pickle=allow_pickle)
    if as_json:
        terminal.say_json(**facts)
        return
    rows, room = facts.pop("plan", []), facts.pop("here", None)
    if "manifest" in facts:
        terminal.say_wrapped(*formatting.artifact_lines(facts))
        return
    terminal.say_wrapped(*formatting.checkpoint_lines(facts))
    if rows:
        terminal.draw(formatting.of_plan(rows))
        terminal.say_wrapped(*formatting.room(room, rows))


@command("", "--clear")
@click.option("--clear", is_flag=True, help="Remove everything that is cached.")
def cache(terminal: Terminal, clear: bool, as_json: bool) -> None:
    """List or clear cached graphs, artifacts, transcripts and clips.

    Builds cache their graphs, and clips that they calibrate on and that are no files of their own;
    `validate` caches what originals hear, and the parts of runs that did not end. Artifacts opened
    by Hub id are cached too.
    """
    from exporter.engine import unfinished
    from exporter.formats.clips import kept as clips
    from exporter.hub import pull
    from exporter.recognition import kept as transcripts
    from exporter.system import build_cache, user_dirs

    kinds = (build_cache, pull, transcripts, clips, unfinished)
    freed = sum(kind.clear() for kind in kinds) if clear else 0
    entries = [entry for kind in kinds for entry in kind.entries()]
    entries.sort(key=lambda entry: entry.made)
    if as_json:
        rows = [{**vars(entry), "path": str(entry.path)} for entry in entries]
        terminal.say_json(place=str(user_dirs.place()), freed_bytes=freed, entries=rows)
        return
    if clear:
        terminal.say(f"{user_dirs.place()}: {shown_bytes(freed)} removed")
        return
    terminal.say(f"{user_dirs.place()}: {shown_bytes(sum(e.size_bytes for e in entries))}")
    for entry in entries:
        terminal.say_wrapped(f"  {_entry_line(entry)}", indent="    ")


@command("", "--json")
def list_(terminal: Terminal, as_json: bool) -> None:
    """List recipes, targets, families and built artifacts.

    Recipes are looked for in ./recipes, artifacts in ./artifacts.
    """
    from exporter.cli.output import facts

    sections = facts.of_folder(Path())
    if as_json:
        terminal.say_json(**sections)
        return
    for title, rows in sections.items():
        terminal.say(f"{title}:")
        for row in rows or ["none"]:
            line = row if isinstance(row, str) else _row_line(row)
            terminal.say_wrapped(f"  {line}", indent="    ")


def _entry_line(entry: Entry) -> str:
    """Return the line of one cached file."""
    created = datetime.fromtimestamp(entry.made).astimezone()
    return f"{created:%Y-%m-%d %H:%M}  {shown_bytes(entry.size_bytes):>8}  {entry.what}"


def _row_line(row: Mapping[str, Any]) -> str:
    """Return the line of one row of `list`; its first value is a path."""
    texts = {
        key: shown_bytes(value) if key == "size_bytes" else value for key, value in row.items()
    }
    path, *rest = texts.values()
    return f"{path}: {', '.join(rest)}"
