"""Format what `validate --dry-run` plans, and what `validate --part` heard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from exporter.cli.output.table import Column, Table
from exporter.system.progress import shown_bytes

if TYPE_CHECKING:
    from exporter.validate.rounds import PartsHeard, PlannedLook


def of_looks(looks: Sequence[PlannedLook]) -> Table:
    """Return a table with a row for each model and look of an artifact."""
    titles = ("look", "clips", "windows", "shards", "in the store", "memory of a task")
    drawn = Table([Column("model"), *(Column(title, right=True) for title in titles)])
    for number, look in enumerate(looks, start=1):
        for model in look.models:
            memory = shown_bytes(model.memory_bytes) if model.memory_bytes else "-"
            counts = look.clips, look.windows, model.shards, model.done
            drawn.add(model.name, f"{number} of {len(looks)}", *map("{:,}".format, counts), memory)
    return drawn


def told(heard: PartsHeard, store: str) -> Iterator[str]:
    """Yield the lines about a part of the work.

    Args:
        heard: What was heard.
        store: The store, for users.
    """
    clips = f"the first {heard.clips:,} of {heard.listed:,} clips"
    if heard.clips == heard.listed:
        clips = f"all {heard.listed:,} clips"
    yield (
        f"{heard.heard} {'shard' if heard.heard == 1 else 'shards'} heard here; {store} has "
        f"{heard.done} of {heard.planned} shards of {clips}."
    )
    if heard.certain:
        yield "Nothing is left to hear: judge it with --merge in place of --part."
    else:
        yield "When the other parts have run, too: judge it with --merge in place of --part."
