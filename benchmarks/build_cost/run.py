"""Build random-weight checkpoints of the real Whisper shapes and tell what each build costs.

Per shape and target: seconds and peak memory of the build step and of the whole `exporter build`,
the size on disk beside the ideal one, and whether a fresh process decodes with the artifact; beside
them optimum's own export and quantization. Every figure is kept at once, so that an interrupted run
goes on where it stopped; a file of figures that is whole is only told and drawn anew.

    pip install --no-deps openai-whisper
    python -m benchmarks.build_cost.run --work /tmp/shapes
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from benchmarks.build_cost.peak_memory import Watched, watch
from benchmarks.build_cost.plot import draw
from benchmarks.build_cost.results import (
    OPTIMUM,
    describe_checkpoint,
    ending,
    fill_in,
    open_results,
    save_results,
    table,
)
from benchmarks.random_checkpoints import SHAPES
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.system.hardware import describe
from exporter.targets import TARGETS

TOKENS = 32
NEAR_TIE = 0.1  # standard deviations of the logits
BENCHMARKS = Path(__file__).resolve().parents[1]
WAYS = (*TARGETS, OPTIMUM)


class Failed(Exception):
    """A measurement that gave no figures; the message goes into the table."""


@dataclass(frozen=True)
class Bench:
    """Where and within which limits it is measured; `scratch` is emptied after every build."""

    scratch: Path
    memory_limit: int
    time_limit_s: float

    def watch(self, *command: str) -> Watched:
        """Run a Python module; whatever it leaves in its temporary folder lies in `scratch`."""
        return watch(
            [sys.executable, "-m", *command],
            memory_limit=self.memory_limit,
            time_limit_s=self.time_limit_s,
            environment={"TMPDIR": str(self.scratch), "HF_HUB_OFFLINE": "1"},
        )


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=click.Choice(list(SHAPES)),
    help="Default: all.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    required=True,
    help="Checkpoints are made here, or reused, in folders named by shape.",
)
@click.option(
    "--ranks",
    type=click.Path(path_type=Path, exists=True),
    help="As for benchmarks/random_checkpoints.py.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=BENCHMARKS / "results" / "build_shapes.json",
    help="The figures. Default: benchmarks/results/build_shapes.json.",
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, exists=True),
    default=BENCHMARKS.parent / "docs" / "building.md",
    help="The page with the table; the picture goes beside it. Default: docs/building.md.",
)
@click.option(
    "--memory-limit",
    type=float,
    default=round(0.9 * describe().memory_bytes / 1e9, 1),
    show_default="90 % of the machine's",
    help="End a build that takes so many GB.",
)
@click.option(
    "--time-limit", type=float, default=900, show_default=True, help="And after so many seconds."
)
def main(
    shapes: Sequence[str],
    work: Path,
    ranks: Path | None,
    output: Path,
    docs: Path,
    memory_limit: float,
    time_limit: float,
) -> None:
    """Measure what is not yet measured, then tell and draw all."""
    results = open_results(output)
    bench = Bench(work.resolve() / "scratch", round(memory_limit * 1e9), time_limit)
    for shape in shapes or SHAPES:
        folder = work.resolve() / shape
        if not folder.exists():
            make_checkpoint(shape, folder, ranks)
        new = describe_checkpoint(open_checkpoint(str(folder)))
        ways = results["shapes"].setdefault(shape, new)["ways"]
        for way in [way for way in WAYS if not measured(ways, way)]:
            ways[way] = measure(bench, folder, way)
            save_results(output, results)
            told = ending(ways[way]) or f"{ways[way]['command_s']:.0f} s"
            click.echo(f"{shape} {way}: {told}", err=True)
    click.echo(table(results))
    if not all(measured(told["ways"], way) for told in results["shapes"].values() for way in WAYS):
        msg = f"{docs} stays: measurements failed or are missing: the same command tries them"
        raise click.ClickException(msg)
    fill_in(docs, table(results))
    docs.with_name("build-cost.svg").write_text(draw(results), encoding="utf-8")


def measured(ways: dict[str, Any], way: str) -> bool:
    """Whether there are figures; a kill is one, a failure is none."""
    return way in ways and "failed" not in ways[way]


def make_checkpoint(shape: str, folder: Path, ranks: Path | None) -> None:
    """Make a checkpoint in a process of its own; a folder that exists is a whole one."""
    partial = folder.with_name(f"{shape}.partial")
    named = ["--ranks", str(ranks)] if ranks else []
    command = [sys.executable, "-m", "benchmarks.random_checkpoints", shape, str(partial), *named]
    if subprocess.run(command, check=False).returncode:
        msg = f"the checkpoint {shape} could not be made"
        raise click.ClickException(msg)
    partial.rename(folder)


def measure(bench: Bench, checkpoint: Path, way: str) -> dict[str, Any]:
    """Build one checkpoint in one way and try what came out; leave nothing on disk."""
    shutil.rmtree(bench.scratch, ignore_errors=True)
    bench.scratch.mkdir(parents=True)
    try:
        if way == OPTIMUM:
            return measure_optimum(bench, checkpoint)
        return measure_target(bench, checkpoint, way)
    except Failed as failure:
        return {"failed": str(failure)}
    finally:
        shutil.rmtree(bench.scratch)


def measure_target(bench: Bench, checkpoint: Path, kind: str) -> dict[str, Any]:
    """Run `exporter build` for one target, then decode with the artifact in fresh processes."""
    recipe = bench.scratch / "recipe.yaml"
    wanted = {"name": "shape", "checkpoint": str(checkpoint), "targets": [{"kind": kind}]}
    with recipe.open("w", encoding="utf-8") as stream:
        YAML().dump({**wanted, "decoding": {"language": "en", "task": "transcribe"}}, stream)
    output = str(bench.scratch / "artifacts")
    command = ["build", str(recipe), "--target", kind, "--output", output, "--force", "--json"]
    done = bench.watch("exporter", *command)
    figures = cost(done)
    if done.killed_for:
        return figures
    (built,) = json.loads(done.stdout)["artifacts"]
    artifact, manifest = Path(built["path"]), built["manifest"]
    figures |= {
        "build_s": manifest["build"]["seconds"],
        "build_peak_bytes": manifest["build"]["peak_rss_bytes"],
        "predicted": manifest["build"]["predicted"],
        "size_bytes": own_bytes(artifact, checkpoint),
    }
    ours = decoded(bench, artifact)
    if kind == "onnx-int8" and not agree(ours, decoded(bench, artifact, "--optimum")):
        msg = "optimum decodes other tokens with this artifact than our runtime does"
        raise Failed(msg)
    return figures | without_margins(ours)


def measure_optimum(bench: Bench, checkpoint: Path) -> dict[str, Any]:
    """Run optimum's own export and quantization, and decode with what it wrote."""
    folder = bench.scratch / "quantized"
    done = bench.watch("benchmarks.build_cost.optimum", str(checkpoint), str(folder))
    figures = cost(done)
    if done.killed_for:
        return figures
    for name in ("config.json", "generation_config.json", "preprocessor_config.json"):
        shutil.copyfile(checkpoint / name, folder / name)
    written = [path for path in folder.iterdir() if ".onnx" in path.name]
    figures |= json.loads(done.stdout.splitlines()[-1])
    figures["size_bytes"] = sum(path.stat().st_size for path in written)
    return figures | without_margins(decoded(bench, folder, "--optimum"))


def agree(ours: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether both decoded the same tokens, but for what follows a near tie.

    Our graphs keep the audio's keys and values in int8, and optimum's in float32. The logits of
    random weights are close to one another, so their order may change.
    """
    pairs = zip(ours["tokens"], others["tokens"], strict=True)
    first = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    return first is None or max(ours["margins"][first], others["margins"][first]) < NEAR_TIE


def without_margins(told: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a decoding."""
    return {name: value for name, value in told.items() if name != "margins"}


def cost(done: Watched) -> dict[str, Any]:
    """What a whole command took; raise Failed where it ended by itself without success."""
    if not done.killed_for:
        require_success(done)
    return {
        "command_s": round(done.seconds, 3),
        "command_peak_bytes": done.peak_bytes,
        "killed_for": done.killed_for,
    }


def own_bytes(artifact: Path, checkpoint: Path) -> int:
    """The bytes of the target's own files: not what was copied, the manifest or the recipe."""
    copied = {path.name for path in checkpoint.iterdir()} - {"model.safetensors"}
    copied |= {"manifest.json", "recipe.yaml"}
    files = [path for path in artifact.rglob("*") if path.is_file() and path.name not in copied]
    return sum(path.stat().st_size for path in files)


def decoded(bench: Bench, folder: Path, *how: str) -> dict[str, Any]:
    """Load a folder in a fresh process and decode; raise Failed unless all logits are finite."""
    done = bench.watch("benchmarks.greedy", str(folder), "--tokens", str(TOKENS), *how)
    require_success(done)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not told.pop("finite"):
        msg = "logits that are not finite"
        raise Failed(msg)
    return told


def require_success(done: Watched) -> None:
    """Raise Failed, with a command's last words, unless it ended well; tell all of them."""
    if done.returncode:
        click.echo(done.stderr, err=True)
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(lines[-1][:200])


if __name__ == "__main__":
    main()
