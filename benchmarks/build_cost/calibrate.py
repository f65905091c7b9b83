"""Build checkpoints into a scratch folder and tell what was estimated beside what was measured.

To recalibrate the targets' `COSTS` on one machine, while nothing else runs; the last lines tell
what each measurement consists of, which is all that the constants there are fitted to.

    python -m benchmarks.build_cost.calibrate CHECKPOINT... --kind torch-int8
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from exporter import recipe
from exporter.build.estimate import work_of
from exporter.build.pipeline import BuiltArtifact, build
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.system.progress import silent
from exporter.targets import TARGETS

FIGURES = ("size_bytes", "peak_rss_bytes", "reload_rss_bytes", "seconds", "reload_seconds")


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(TARGETS)), help="Only this.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Where there is disk to build.")
def main(checkpoints: tuple[Path, ...], kinds: tuple[str, ...], scratch: Path | None) -> None:
    """Build CHECKPOINTS and print a row of figures per artifact: estimated, measured, ratio."""
    for checkpoint in checkpoints:
        for kind in kinds or tuple(TARGETS):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                built = build_one(checkpoint, kind, Path(folder))
            click.echo(f"{checkpoint.name} {kind}: {'; '.join(compared(built))}")
            click.echo(f"  {work_of(open_checkpoint(str(checkpoint)), built.manifest.size_bytes)}")


def build_one(checkpoint: Path, kind: str, folder: Path) -> BuiltArtifact:
    """Build one artifact by a recipe without data."""
    path = folder / "recipe.yaml"
    wanted = {"name": "x", "checkpoint": str(checkpoint.resolve()), "targets": [{"kind": kind}]}
    path.write_text(json.dumps(wanted))
    (built,) = build(recipe.read(path), output=folder, progress=silent)
    return built


def compared(built: BuiltArtifact) -> Iterator[str]:
    """Each figure as it was estimated and as it was measured."""
    assert built.reload is not None
    found: dict[str, Any] = {
        "size_bytes": built.manifest.size_bytes,
        "peak_rss_bytes": built.manifest.build.peak_rss_bytes,
        "seconds": built.manifest.build.seconds,
        "reload_rss_bytes": built.reload["peak_rss_bytes"],
        "reload_seconds": built.reload["seconds"],
    }
    estimated = built.prediction.as_row()
    for name in FIGURES:
        unit = 1e6 if name.endswith("bytes") else 1
        told, measured = estimated[name] / unit, found[name] / unit
        yield f"{name} {told:.1f} / {measured:.1f} = {told / measured:.2f}"


if __name__ == "__main__":
    main()
