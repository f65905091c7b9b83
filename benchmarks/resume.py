"""Validate 1,000 clips and 10,000: the peaks of memory, and what a run that is killed loses.

Clips are the demo's sentences at a hundred speeds each, so that all sounds differ. One artifact
(onnx-int8) is built of a checkpoint, and `exporter validate ARTIFACT --until all` hears all clips,
each time in fresh processes with a cache of their own. The longest run is repeated: it is killed
with SIGKILL in the middle of the hearing, as by a kernel that is out of memory, and the same
command is called again. Its parts in the cache are watched, and its report and predictions must
equal those of the run that was not killed, but for times.

    python -m benchmarks.resume --work FOLDER
    python -m benchmarks.resume --work FOLDER --checkpoint recipes/demo/whisper --threads 1

Peaks are those that Linux keeps of each process (VmHWM), read ten times a second. Seconds are no
measurement unless the machine is idle.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "recipes" / "demo"
SPEEDS = np.linspace(0.9, 1.1, 100)
POLL_S = 0.1
ENDS = (0, 4)  # the exit codes of a run that has judged
WORKER = "exporter.system.worker"
# What another run of the same work has another value of: times and memory, the sentences with
# them, hashes over them, and how many transcripts of an original a killed run has left.
OF_TIME = {
    *("created", "sha256", "page_sha256", "predictions_sha256", "sentence", "kept", "passes"),
    *("latency_ratio", "latency_ratio_p95", "latency_ratio_median", "latency_median_s"),
    *("latency_p95_s", "rtf", "rtfx", "load_s", "load_average", "peak_rss_bytes"),
    *("time", "time_reference", "seconds"),
}
CHECKS = {"latency", "lengths", "call times", "memory"}

_SMALL_SHARDS = """
import sys
from exporter.__main__ import main
from exporter.validate.shards import cut
cut._MOST = int(sys.argv.pop(1))
sys.exit(main())
"""

Parts = dict[str, int]


@dataclass
class Run:
    """What was seen of a command.

    Attributes:
        began: When it began, in seconds of `time.monotonic`.
        seconds: How long it ran.
        own_bytes: The peak of its own process.
        children: The peaks of the processes that it started, by the step that they ran.
        seen_s: When each part was first seen, in seconds after the beginning.
        parts: The time of change of each part, in ns.
        workers: Steps that were running when it was killed.
        code: Its exit code.
    """

    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    own_bytes: int = 0
    children: dict[str, int] = field(default_factory=dict)
    seen_s: dict[str, float] = field(default_factory=dict)
    parts: Parts = field(default_factory=dict)
    workers: int = 0
    code: int = 0
    _steps: dict[int, str] = field(default_factory=dict, init=False)

    def middle(self) -> tuple[int, float]:
        """Return the parts that were there in the middle of the hearing, and seconds since."""
        seen = sorted(self.seen_s.values())
        middle = (seen[0] + seen[-1]) / 2
        count = bisect(seen, middle)
        return count, middle - seen[count - 1]

    def look(self, process: int, parts: Path) -> None:
        """Take note of a process, its descendants and its parts."""
        self.own_bytes = max(self.own_bytes, peak_bytes(process))
        for child in descendants(process):
            if step := self._steps.get(child) or step_of(child):
                self._steps[child] = step
                self.children[step] = max(self.children.get(step, 0), peak_bytes(child))
        for path in parts.glob("*/*.jsonl"):
            with suppress(FileNotFoundError):
                self.parts[path.name] = path.stat().st_mtime_ns
                self.seen_s.setdefault(path.name, time.monotonic() - self.began)


def peak_bytes(process: int) -> int:
    """Return the peak of a process' resident memory; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def descendants(process: int) -> list[int]:
    """Return all running processes that a process and its descendants started."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return [*found, *(each for child in found for each in descendants(child))]


def step_of(process: int) -> str:
    """Return the step that a worker runs, and for which side; "" of another process."""
    with suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
        if WORKER in words:
            step, request = words[words.index(WORKER) + 1 :][:2]
            spec = json.loads(Path(request).read_bytes()).get("spec")
            side = ("artifact ", "original ")[spec["original"]] if spec else ""
            return side + step.rpartition(":")[2]
    return ""


def watched(
    command: Sequence[str],
    cache: Path,
    log: Path,
    kill: Callable[[Run], bool] = lambda _: False,
) -> Run:
    """Run a command, and return what was seen; it is killed when `kill` says so.

    Raises:
        SystemExit: It has failed, or the processes that it started outlive it.
    """
    variables = {**os.environ, "EXPORTER_CACHE": str(cache)}
    run = Run()
    with log.open("wb") as stream, ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(command, cwd=ROOT, env=variables, stdout=stream, stderr=stream)
        )
        stack.callback(process.kill)  # where this program is interrupted
        while process.poll() is None:
            run.look(process.pid, cache / "parts")
            if kill(run):
                children = descendants(process.pid)
                run.workers = sum(bool(step_of(child)) for child in children)
                process.kill()
                process.wait()
                _require_gone(children)
            time.sleep(POLL_S)
    run.seconds, run.code = time.monotonic() - run.began, process.returncode
    if run.code not in (*ENDS, -9):
        sys.exit(f"{' '.join(command)}: exit code {run.code}\n{log.read_text()[-2000:]}")
    return run


def _require_gone(processes: Sequence[int]) -> None:
    """Wait for the end of processes whose parent was killed."""
    end = time.monotonic() + 10
    while left := [each for each in processes if peak_bytes(each)]:
        if time.monotonic() > end:
            sys.exit(f"processes {left} outlive the one that started them")
        time.sleep(POLL_S)


def make_clips(folder: Path, count: int, sources: Path = DEMO / "clips") -> Path:
    """Write so many clips that sound unlike each other, and return their manifest.

    The first clips are the same for each count, and are written once.

    Args:
        folder: Where they are written.
        count: At most 100 times the short clips of `sources`.
        sources: A folder with recordings and their texts.
    """
    lines = (sources / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["audio"].startswith("short-")]
    if count > len(rows) * len(SPEEDS):
        msg = f"at most {len(rows) * len(SPEEDS):,} clips"
        raise click.UsageError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for number in range(count):
        row, speed = rows[number % len(rows)], SPEEDS[number // len(rows)]
        path = folder / f"{number:06}.flac"
        seconds = _write_faster(sources / row["audio"], path, speed)
        told.append({**row, "audio": path.name, "duration": seconds})
    manifest = folder / f"{count}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    return manifest


def _write_faster(source: Path, path: Path, speed: float) -> float:
    """Write a recording played at another speed if it is not there; return its seconds."""
    if not path.exists():
        samples, rate = soundfile.read(source, dtype="float32")
        places = np.arange(0, len(samples) - 1, speed)
        played = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
        written = path.with_suffix(".part")
        soundfile.write(written, played, rate, format="FLAC")
        written.replace(path)
    return float(soundfile.info(path).duration)


def build(checkpoint: Path, work: Path) -> Path:
    """Build the artifact, and return its folder."""
    recipe = work / "recipe.yaml"
    config = json.loads((checkpoint / "config.json").read_bytes())
    decoding = "decoding: {language: en}\n" if config["model_type"] == "whisper" else ""
    recipe.write_text(
        f"name: resume\ncheckpoint: {json.dumps(str(checkpoint.resolve()))}\n"
        f"targets:\n  - kind: onnx-int8\n{decoding}"
        f"data: {{clips: {json.dumps(str(DEMO / 'clips'))}}}\n"
        "gate: {max_wer_increase: 0.02, min_clips: 50}\n",
        encoding="utf-8",
    )
    built = [*_exporter("build"), str(recipe), "--output", str(work / "built"), "--force"]
    watched(built, work / "cache-build", work / "build.log")
    return work / "built" / "resume" / "onnx-int8"


def _exporter(command: str, windows: int | None = None) -> list[str]:
    """Return the command line of a command, with shards of at most so many windows if asked."""
    if windows is None:
        return [sys.executable, "-m", "exporter", command]
    return [sys.executable, "-c", _SMALL_SHARDS, str(windows), command]


def without_times(data: Any) -> Any:
    """Return a report or a prediction as plain data, without what any other run has otherwise."""
    if isinstance(data, dict):
        return {name: without_times(each) for name, each in data.items() if name not in OF_TIME}
    if isinstance(data, list):
        return [without_times(each) for each in data if not _is_of_time(each)]
    return data


def _is_of_time(data: Any) -> bool:
    return isinstance(data, dict) and data.get("name") in CHECKS


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of what differs between two reports, and the numbers of predictions."""
    first, second = (json.loads((each / "report.json").read_bytes()) for each in (one, other))
    found = [
        name
        for name in sorted({*first, *second} - OF_TIME)
        if without_times(first.get(name)) != without_times(second.get(name))
    ]
    with (one / "predictions.jsonl").open() as ours, (other / "predictions.jsonl").open() as theirs:
        for number, (left, right) in enumerate(zip(ours, theirs, strict=True), start=1):
            if without_times(json.loads(left)) != without_times(json.loads(right)):
                found.append(f"prediction {number}")
    return found


def killing(whole: Run) -> Callable[[Run], bool]:
    """Return what tells when to kill a run: in the middle of its hearing, as another run shows."""
    count, wait_s = whole.middle()

    def due(run: Run) -> bool:
        seen = sorted(run.seen_s.values())
        return len(seen) >= count and time.monotonic() - run.began >= seen[count - 1] + wait_s

    return due


def row(what: str, run: Run) -> str:
    """Return a line of the table."""
    steps = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sorted(run.children.items()))
    return f"| {what} | {run.seconds:,.0f} s | {run.own_bytes / 1e6:,.1f} MB | {steps} |"


def growth(few: tuple[int, Run], many: tuple[int, Run]) -> str:
    """Tell how many bytes a further clip takes in each kind of process."""
    clips = many[0] - few[0]
    own = (many[1].own_bytes - few[1].own_bytes) / clips
    steps = (
        f"{step} {(size - few[1].children.get(step, size)) / clips:,.0f}"
        for step, size in sorted(many[1].children.items())
    )
    told = ", ".join((f"own process {own:,.0f}", *steps))
    return f"From {few[0]:,} to {many[0]:,} clips, bytes for each clip more: {told}."


def told_of(whole: Run, killed: Run, resumed: Run, found: Sequence[str]) -> str:
    """Tell what a killed run has lost, and whether its repetition gave the same."""
    again = sum(resumed.parts.get(name) != changed for name, changed in killed.parts.items())
    new = len(resumed.parts.keys() - killed.parts.keys())
    planned, left = len(whole.parts), len(killed.parts)
    return (
        f"Killed after {killed.seconds:,.0f} s, when {left} of {planned} shards were heard, and "
        f"{killed.workers} were being heard. The same command heard {new} shards; of the {left} "
        f"it heard {again} again. Its report "
        + (f"differs: {', '.join(found[:9])}." if found else "is the same but for times.")
    )


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder to fill.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True),
    default=DEMO / "ctc",
    help="Default: recipes/demo/ctc, which hears most clips a second.",
)
@click.option("--clips", "counts", type=int, multiple=True, default=(1_000, 10_000))
@click.option("--threads", default=1, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--store", "stored", is_flag=True, help="Also with a --store of their own.")
@click.option(
    "--windows", type=int, help="Of a shard at most, to have more of them; default: as the product."
)
def main(
    work: Path,
    checkpoint: Path,
    counts: Sequence[int],
    threads: int,
    workers: int,
    stored: bool,
    windows: int | None,
) -> None:
    """Print the figures of each run, and of the one that was killed."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    artifact = build(checkpoint, work)
    how = ["--until", "all", "--threads", str(threads), "--workers", str(workers)]

    def validated(
        count: int, name: str, *more: str, kill: Callable[[Run], bool] = lambda _: False
    ) -> Run:
        data = make_clips(work / "clips", count)
        command = [*_exporter("validate", windows), str(artifact), "--data", str(data), *how]
        command += ["--report", str(work / f"report-{name}"), *more]
        return watched(command, work / f"cache-{name}", work / f"{name}.log", kill)

    _forget(work, [*map(str, counts), *(f"stored-{count}" for count in counts), "killed"])
    click.echo("| clips | time | own process | the largest process of each step, MB |")
    click.echo("| ---: | ---: | ---: | --- |")
    runs: dict[int, Run] = {}
    for count in sorted(counts):
        runs[count] = validated(count, str(count))
        click.echo(row(f"{count:,}", runs[count]))
    for count in sorted(counts) if stored else ():
        store = ["--store", str(work / f"cache-stored-{count}" / "parts" / "store")]
        click.echo(row(f"{count:,}, --store", validated(count, f"stored-{count}", *store)))
    (few, *_, many) = (*runs.items(), *runs.items())
    killed = validated(many[0], "killed", kill=killing(many[1]))
    if killed.code != -9:
        sys.exit("the run ended before it was killed")
    resumed = validated(many[0], "killed")
    click.echo(row(f"{many[0]:,}, repeated", resumed))
    found = differences(work / f"report-{many[0]}", work / "report-killed")
    click.echo(f"\n{growth(few, many)}" if len(runs) > 1 else "")
    click.echo(told_of(many[1], killed, resumed, found))
    sys.exit(bool(found))


def _forget(work: Path, names: Sequence[str]) -> None:
    """Remove what runs of these names left."""
    for name in names:
        for kind in ("cache", "report"):
            shutil.rmtree(work / f"{kind}-{name}", ignore_errors=True)


if __name__ == "__main__":
    main()
