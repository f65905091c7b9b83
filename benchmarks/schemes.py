"""Compare the schemes of a part of a model: bytes, milliseconds and, on the demo, errors.

For each scheme and target an artifact of CHECKPOINT is built, by default of random weights of a
real shape, and runs in fresh processes, in rounds over all artifacts. The demo, whose weights are
trained, is built with the same schemes and validated, for its WER. Figures are kept as they come,
so that an interrupted run goes on; one that is whole is only told.

    pip install --no-deps openai-whisper
    python -m benchmarks.schemes decoder --work FOLDER
    python -m benchmarks.schemes encoder checkpoints/tiny --work FOLDER --no-demo
    python -m benchmarks.schemes front-end --work FOLDER
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from ruamel.yaml import YAML

from benchmarks.peers.rounds import RATE
from benchmarks.peers.workers.worker import Request
from benchmarks.schemes_plot import draw
from exporter.artifact import report, store
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.formats import audio
from exporter.system.hardware import describe
from exporter.targets import TARGETS

BENCHMARKS = Path(__file__).resolve().parent
RECIPES = BENCHMARKS.parent / "recipes"
CLIPS = RECIPES / "demo" / "clips"
CALIBRATION = 20  # of the demo's clips; the others judge
CLIP_S = 10
RUNS = 3
WHISPER = {"language": "en", "task": "transcribe"}


@dataclass(frozen=True)
class Part:
    """Modules whose scheme varies, the model that has them, and what is timed."""

    modules: tuple[str, ...]
    schemes: tuple[str, ...]
    checkpoints: str
    shape: str
    demo: str
    unit: str


_FIXED = ("float", "dynamic-int8", "static-int8")
PARTS = {
    "decoder": Part(
        modules=("*.decoder.*", "lm_head"),
        schemes=("dynamic-int8", "weight-int8", "weight-int4"),
        checkpoints="benchmarks.random_checkpoints",
        shape="small",
        demo="whisper-demo-int8.yaml",
        unit="token",
    ),
    "encoder": Part(
        modules=("model.encoder.*",),
        schemes=_FIXED,
        checkpoints="benchmarks.random_checkpoints",
        shape="small",
        demo="whisper-demo-int8.yaml",
        unit="window",
    ),
    "front-end": Part(
        modules=("*.feature_extractor.*",),
        schemes=_FIXED,
        checkpoints="benchmarks.random_ctc",
        shape="base",
        demo="wav2vec2-demo-int8.yaml",
        unit=f"{CLIP_S} s",
    ),
}


@dataclass(frozen=True)
class Bench:
    """What is measured, where and how."""

    name: str
    work: Path
    tokens: int
    threads: int
    rounds: int

    @property
    def part(self) -> Part:
        """The part whose scheme varies."""
        return PARTS[self.name]


@click.command()
@click.argument("part", type=click.Choice(list(PARTS)))
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--shape", help="Of the random weights. Default: small, of CTC models base.")
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
@click.option("--scheme", "schemes", multiple=True, help="A name; may be given again.")
@click.option(
    "--target", "targets", multiple=True, type=click.Choice(list(TARGETS)), default=list(TARGETS)
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=BENCHMARKS / "results" / "schemes.json",
    help="The figures. Default: benchmarks/results/schemes.json.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=BENCHMARKS.parent / "docs" / "schemes.svg",
    help="Drawn of them. Default: docs/schemes.svg.",
)
def main(
    part: str,
    checkpoint: Path | None,
    shape: str | None,
    work: Path,
    ranks: Path | None,
    tokens: int,
    threads: int,
    rounds: int,
    demo: bool,
    schemes: Sequence[str],
    targets: Sequence[str],
    results: Path,
    picture: Path,
) -> None:
    """Measure what is not yet measured of the PART's schemes, then tell all as a table."""
    bench = Bench(part, work.resolve(), tokens, threads, rounds)
    bench.work.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    made = shape or bench.part.shape
    source = checkpoint.resolve() if checkpoint else random_checkpoint(bench, made, ranks)
    entry = told.setdefault(f"{part} {source.name}", {**setting(bench, source), "rows": {}})
    rows: dict[str, Any] = entry["rows"]
    ways = [(scheme, target) for scheme in schemes or bench.part.schemes for target in targets]
    for scheme, target in [way for way in ways if "size_bytes" not in rows.get(row_of(*way), {})]:
        folder = built(bench, source, scheme, target)
        size = sum(file.size_bytes for file in weights_of(folder))
        rows[row_of(scheme, target)] = {
            "path": str(folder.relative_to(bench.work)),
            "size_bytes": size,
        }
        save(results, told)
    for scheme, target in untimed(ways, rows, bench):
        row = rows[row_of(scheme, target)]
        row.setdefault("seconds", []).append(seconds_of(bench, bench.work / row["path"]))
        save(results, told)
    for scheme, target in ways if demo else ():
        row = rows[row_of(scheme, target)]
        if "wer" not in row:
            row |= errors_on_demo(bench, scheme, target)
            save(results, told)
    click.echo(table(told))
    picture.write_text(draw(told), encoding="utf-8")


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
        "unit": bench.part.unit,
        "parameters": open_checkpoint(str(source)).parameters,
    }


def random_checkpoint(bench: Bench, shape: str, ranks: Path | None) -> Path:
    """Make the checkpoint of a shape, or take the one that is there."""
    folder = bench.work / f"{'wav2vec2' if bench.name == 'front-end' else 'whisper'}-{shape}"
    partial = folder.with_name(f"{folder.name}.partial")
    if not folder.exists():
        named = ["--ranks", str(ranks)] if ranks else []
        ran(bench.part.checkpoints, shape, str(partial), *named)
        partial.rename(folder)
    return folder


def built(bench: Bench, source: Path, scheme: str, target: str, **more: Any) -> Path:
    """Build one artifact, whose part has a scheme; return its folder.

    `more` are further keys of the recipe.
    """
    name = f"{'demo' if more else source.name}-{bench.name}-{scheme}"
    plan: dict[str, Any] = {"modules": dict.fromkeys(bench.part.modules, scheme)}
    if scheme == "static-int8":
        # Random weights decode every clip to the last position: one will do.
        count = CALIBRATION if more else 1
        plan["calibration"] = {"clips": str(split_clips(bench.work)[0]), "count": count}
    recipe = {
        "name": name,
        "checkpoint": str(source),
        "quantization": plan,
        "targets": [{"kind": target}],
        **({} if bench.name == "front-end" else {"decoding": WHISPER}),
        **more,
    }
    path = bench.work / f"{name}-{target}.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(recipe, stream)
    output = str(bench.work / "artifacts")
    told = ran("exporter", "build", str(path), "--output", output, "--force", "--json")
    (artifact,) = json.loads(told)["artifacts"]
    return Path(artifact["path"])


def split_clips(work: Path) -> tuple[Path, Path]:
    """Copy the demo's clips; return the folder of those that calibrate, and of the others."""
    folders = work / "calibrating", work / "judging"
    lines = (CLIPS / "manifest.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for folder, chosen in zip(folders, (lines[:CALIBRATION], lines[CALIBRATION:]), strict=True):
        folder.mkdir(exist_ok=True)
        for line in chosen:
            name = json.loads(line)["audio"]
            shutil.copyfile(CLIPS / name, folder / name)
        (folder / "manifest.jsonl").write_text("".join(chosen), encoding="utf-8")
    return folders


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
            if len(rows[row_of(*way)].get("seconds", ())) <= turn:
                yield way


def seconds_of(bench: Bench, folder: Path) -> float:
    """Run in a fresh process; return the median seconds of a token, a window or a clip."""
    threads = str(bench.threads)
    if bench.name == "front-end":
        sound = bench.work / "clip.npy"
        samples = np.concatenate([audio.whole(audio.read(c, RATE)) for c in CLIPS.glob("*.flac")])
        np.save(sound, samples[None, : CLIP_S * RATE])
        request = Request(
            model=str(folder),
            checkpoint="",
            audio=str(sound),
            tokens=0,
            threads=bench.threads,
            beams=1,
            warmups=1,
            runs=RUNS,
            started=time.monotonic(),
        )
        told = ran("benchmarks.peers.workers.ctc.exporter_worker", json.dumps(asdict(request)))
        return float(statistics.median(json.loads(told.splitlines()[-1])["seconds"]))
    arguments = ["--tokens", str(bench.tokens), "--threads", threads]
    told = ran("benchmarks.greedy", str(folder), *arguments)
    decoded = json.loads(told.splitlines()[-1])
    if not decoded["finite"]:
        msg = f"{folder} gave logits that are not finite"
        raise click.ClickException(msg)
    seconds: float = decoded["token_s" if bench.name == "decoder" else "encode_s"]
    return seconds


def errors_on_demo(bench: Bench, scheme: str, target: str) -> dict[str, float]:
    """Build and validate the demo; return the word error rates of the original and of it."""
    recipe = YAML(typ="safe").load(RECIPES / bench.part.demo)
    source = RECIPES / recipe["checkpoint"]
    kept = {name: recipe[name] for name in ("decoding", "gate")}
    data = {"clips": str(split_clips(bench.work)[1])}
    folder = built(bench, source, scheme, target, data=data, **kept)
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
        part, _, model = name.partition(" ")
        lines += [
            f"{part} of {model}: {entry['cpu']}, {entry['threads']} threads",
            "",
            f"| {part} | target | MB | ms / {entry['unit']} | demo: WER of the original | WER |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        for key, row in entry["rows"].items():
            scheme, _, target = key.partition(" ")
            times = row.get("seconds", [])
            median = f"{1e3 * statistics.median(times):.2f}" if times else ""
            rates = [f"{row[rate]:.2%}" if rate in row else "" for rate in ("reference_wer", "wer")]
            cells = [scheme, target, f"{row['size_bytes'] / 1e6:.1f}", median, *rates]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
