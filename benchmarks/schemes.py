"""Compare the decoder's schemes: bytes, milliseconds a token and, on the demo, errors.

For each scheme and target an artifact of CHECKPOINT is built, by default of random weights of a
real shape, and decodes greedily in fresh processes, in rounds over all artifacts. The demo, whose
weights are trained, is built with the same schemes and validated, for its WER. Figures are kept as
they come, so that an interrupted run goes on; one that is whole is only told.

    pip install --no-deps openai-whisper
    python -m benchmarks.schemes --work FOLDER
    python -m benchmarks.schemes checkpoints/tiny --work FOLDER --no-demo
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

from benchmarks.random_checkpoints import SHAPES
from exporter.artifact import report, store
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.system.hardware import describe
from exporter.targets import TARGETS

BENCHMARKS = Path(__file__).resolve().parent
DEMO = BENCHMARKS.parent / "recipes" / "whisper-demo-int8.yaml"
SCHEMES = ("dynamic-int8", "weight-int8", "weight-int4")
HEADER = "| decoder | target | MB | ms / token | demo: WER of the original | WER |"


@dataclass(frozen=True)
class Bench:
    """Where and how it is measured."""

    work: Path
    tokens: int
    threads: int
    rounds: int


@click.command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--shape", type=click.Choice(list(SHAPES)), default="small", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Artifacts go here.")
@click.option(
    "--ranks",
    type=click.Path(path_type=Path, exists=True),
    help="As for benchmarks/random_checkpoints.py.",
)
@click.option("--tokens", default=64, show_default=True, help="Decoded in every process.")
@click.option("--threads", default=describe().cores, show_default="all cores")
@click.option("--rounds", default=3, show_default=True, help="Processes for each artifact.")
@click.option("--demo/--no-demo", default=True, show_default=True, help="Measure the demo's WER.")
@click.option(
    "--scheme", "schemes", multiple=True, default=SCHEMES, help="A name; may be given again."
)
@click.option(
    "--target", "targets", multiple=True, type=click.Choice(list(TARGETS)), default=list(TARGETS)
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=BENCHMARKS / "results" / "schemes.json",
    help="The figures. Default: benchmarks/results/schemes.json.",
)
def main(
    checkpoint: Path | None,
    shape: str,
    work: Path,
    ranks: Path | None,
    tokens: int,
    threads: int,
    rounds: int,
    demo: bool,
    schemes: Sequence[str],
    targets: Sequence[str],
    results: Path,
) -> None:
    """Measure what is not yet measured, then tell all as a table."""
    bench = Bench(work.resolve(), tokens, threads, rounds)
    bench.work.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    source = checkpoint.resolve() if checkpoint else random_checkpoint(bench, shape, ranks)
    entry = told.setdefault(source.name, {**setting(bench, source), "rows": {}})
    rows: dict[str, Any] = entry["rows"]
    ways = [(scheme, target) for scheme in schemes for target in targets]
    for scheme, target in [way for way in ways if "size_bytes" not in rows.get(row_of(*way), {})]:
        folder = built(bench, source, scheme, target)
        size = sum(file.size_bytes for file in weights_of(folder))
        rows[row_of(scheme, target)] = {"path": str(folder), "size_bytes": size}
        save(results, told)
    for scheme, target in untimed(ways, rows, bench):
        row = rows[row_of(scheme, target)]
        row.setdefault("token_s", []).append(token_seconds(bench, Path(row["path"])))
        save(results, told)
    for scheme, target in ways if demo else ():
        row = rows[row_of(scheme, target)]
        if "wer" not in row:
            row |= errors_on_demo(bench, scheme, target)
            save(results, told)
    click.echo(table(told))


def row_of(scheme: str, target: str) -> str:
    """The key of a row of figures."""
    return f"{scheme} {target}"


def setting(bench: Bench, source: Path) -> dict[str, Any]:
    """What a reader must know of the machine and the model."""
    machine = describe()
    return {
        "cpu": machine.cpu,
        "threads": bench.threads,
        "tokens": bench.tokens,
        "parameters": open_checkpoint(str(source)).parameters,
    }


def random_checkpoint(bench: Bench, shape: str, ranks: Path | None) -> Path:
    """Make the checkpoint of a shape, or take the one that is there."""
    folder, partial = bench.work / shape, bench.work / f"{shape}.partial"
    if not folder.exists():
        named = ["--ranks", str(ranks)] if ranks else []
        ran("benchmarks.random_checkpoints", shape, str(partial), *named)
        partial.rename(folder)
    return folder


def built(bench: Bench, source: Path, scheme: str, target: str, **more: Any) -> Path:
    """Build one artifact, whose decoder and head have a scheme; return its folder.

    `more` are further keys of the recipe.
    """
    name = f"{'demo' if more else source.name}-{scheme}"
    modules = {"*.decoder.*": scheme, "lm_head": scheme}
    recipe = {
        "name": name,
        "checkpoint": str(source),
        "quantization": {"modules": modules},
        "targets": [{"kind": target}],
        "decoding": {"language": "en", "task": "transcribe"},
        **more,
    }
    path = bench.work / f"{name}-{target}.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(recipe, stream)
    output = str(bench.work / "artifacts")
    told = ran("exporter", "build", str(path), "--output", output, "--force", "--json")
    (artifact,) = json.loads(told)["artifacts"]
    return Path(artifact["path"])


def weights_of(folder: Path) -> Iterator[Any]:
    """Yield the files of an artifact that hold weights."""
    for file in store.read_manifest(folder).files:
        if file.path.endswith(("_data", ".safetensors")):
            yield file


def untimed(
    ways: Sequence[tuple[str, str]], rows: dict[str, Any], bench: Bench
) -> Iterator[tuple[str, str]]:
    """Yield the artifacts in rounds, each once a round, until each was timed often enough."""
    for turn in range(bench.rounds):
        for way in ways:
            if len(rows[row_of(*way)].get("token_s", ())) <= turn:
                yield way


def token_seconds(bench: Bench, folder: Path) -> float:
    """Decode in a fresh process; return the median seconds of a token."""
    told = ran(
        "benchmarks.greedy",
        str(folder),
        *("--tokens", str(bench.tokens), "--threads", str(bench.threads)),
    )
    decoded = json.loads(told.splitlines()[-1])
    if not decoded["finite"]:
        msg = f"{folder} gave logits that are not finite"
        raise click.ClickException(msg)
    seconds: float = decoded["token_s"]
    return seconds


def errors_on_demo(bench: Bench, scheme: str, target: str) -> dict[str, float]:
    """Build and validate the demo; return the word error rates of the original and of it."""
    recipe = YAML(typ="safe").load(DEMO)
    source = DEMO.parent / recipe["checkpoint"]
    clips = {"data": {"clips": str(DEMO.parent / recipe["data"]["clips"])}}
    kept = {name: recipe[name] for name in ("decoding", "gate")}
    folder = built(bench, source, scheme, target, **clips, **kept)
    ran("exporter", "validate", str(folder), "--threads", str(bench.threads), fails=True)
    judged = report.read(folder)
    return {"reference_wer": judged.reference_figures.wer, "wer": judged.figures.wer}


def ran(module: str, *arguments: str, fails: bool = False) -> str:
    """Run a Python module and return what it told; with `fails`, its exit status says nothing."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and not fails:
        msg = f"{' '.join(command[2:4])} failed: {done.stderr.strip()[-300:]}"
        raise click.ClickException(msg)
    return done.stdout


def save(path: Path, told: dict[str, Any]) -> None:
    """Write the figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def table(told: dict[str, Any]) -> str:
    """Return all figures as Markdown."""
    lines = []
    for name, entry in told.items():
        where = f"{entry['cpu']}, {entry['threads']} threads, {entry['tokens']} tokens"
        lines += [f"{name}: {where}", "", HEADER, "| --- | --- | ---: | ---: | ---: | ---: |"]
        for key, row in entry["rows"].items():
            scheme, _, target = key.partition(" ")
            times = row.get("token_s", [])
            token = f"{1e3 * statistics.median(times):.2f}" if times else ""
            rates = [f"{row[rate]:.2%}" if rate in row else "" for rate in ("reference_wer", "wer")]
            cells = [scheme, target, f"{row['size_bytes'] / 1e6:.1f}", token, *rates]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
