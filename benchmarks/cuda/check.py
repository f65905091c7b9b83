"""Build, open and time CUDA artifacts on one card, beside what transformers does there.

For a bare machine with a card, PyTorch for CUDA, Triton and g++. It takes at most eight minutes:
parts are done in the order of their weight, each has a limit, and figures are printed as they come
and saved at once. Checkpoints have random weights of the real shapes and say the same 64 tokens of
every window, so no download is needed and every system decodes the same.

    python -m benchmarks.cuda.check --work FOLDER --results FOLDER/check.json

Packages that the machine lacks may come as wheels, for one without a network. They are installed
into an environment in FOLDER, which sees the machine's own packages:

    pip download --only-binary :all: --no-deps --dest wheels soundfile soxr pydantic ...
    python -m benchmarks.cuda.check --work FOLDER --wheels wheels

With `--device cpu` the same parts run without a card, to try the script; their figures are no
figures of CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cuda.results import lines, save

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 64
LONGEST = TOKENS + 8  # the script's end comes before
BUDGET_S = 480.0
TARGETS: dict[str, dict[str, str]] = {
    "cuda": {
        "aoti": "{kind: aoti, name: aoti, device: cuda, dtype: float16}",
        "onnx-fp16": "{kind: onnx-fp16, name: onnx-fp16}",
    },
    "cpu": {
        "aoti": "{kind: aoti, name: aoti}",
        "onnx-fp16": "{kind: onnx-int8, name: onnx-fp16}",
    },
}
SCHEMES = {"": "float", "int8": "dynamic-int8"}


@dataclass(frozen=True)
class Part:
    """One figure or more: a system at a shape, within a limit of seconds."""

    shape: str
    system: str
    limit_s: float


# The most telling first: what is missing where the time ends is at the end.
PARTS = (
    Part("tiny", "aoti", 90),
    Part("large-v3", "aoti", 190),
    Part("large-v3", "eager", 45),
    Part("large-v3", "compiled", 100),
    Part("large-v3", "aoti int8", 120),
    Part("large-v3", "onnx-fp16", 90),
    Part("large-v3-turbo", "aoti", 90),
    Part("small", "aoti", 90),
    Part("small", "eager", 30),
    Part("large-v3", "autocast", 80),
    Part("large-v3", "bitsandbytes", 60),
)


@dataclass
class Run:
    """One run of the script: where its files are, and what is left of its time."""

    work: Path
    device: str
    python: str
    ends: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    def left(self, limit_s: float) -> float:
        """Return the seconds that a step may take."""
        return min(limit_s, self.ends - time.monotonic())

    def call(self, arguments: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[str]:
        """Run a module of Python; what it printed is kept where it takes too long.

        Raises:
            Failed: It fails, or takes too long before it prints anything.
        """
        limit_s = self.left(limit_s)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        environment["EXPORTER_CACHE"] = str(self.work / "cache")
        command = [self.python, "-m", *arguments]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=max(limit_s, 0.1),
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as ended:
            printed = (ended.stdout or b"").decode()
            if not printed.strip():
                msg = f"not done after {limit_s:.0f} s"
                raise Failed(msg) from None
            return subprocess.CompletedProcess(command, 0, printed, "")
        if done.returncode and not _rows(done.stdout):
            raise Failed(_reason(done.stderr))
        return done


class Failed(Exception):
    """A part that could not be done; the message is its row."""


def main() -> None:
    """Run all parts that the time allows, and print their tables."""
    asked = _asked()
    asked.work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    python = _environment(asked.work, asked.wheels) if asked.wheels else sys.executable
    run = Run(asked.work, asked.device, python, began + asked.budget)
    results: dict[str, Any] = {"tokens": TOKENS, "about": _about(run), "rows": run.rows}
    _say(json.dumps(results["about"]))
    for part in PARTS:
        if part.shape not in asked.shapes:
            continue
        row = measured(run, part)
        run.rows.append({"shape": part.shape, "system": part.system, **row})
        results["seconds"] = round(time.monotonic() - began, 1)
        save(results, asked.results)
        told = json.dumps({name: value for name, value in row.items() if name != "text"})
        _say(f"{results['seconds']:6.1f} s  {part.shape}, {part.system}: {told}")
    _say("\n".join(lines(results)))


def _say(text: str) -> None:
    """Write a line at once: the script may be ended before the next."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def measured(run: Run, part: Part) -> dict[str, Any]:
    """Return the figures of a part, or why there are none."""
    if run.left(part.limit_s) < 5:
        return {"failed": "no time was left"}
    ends = run.ends
    run.ends = min(ends, time.monotonic() + part.limit_s)
    try:
        checkpoint = _checkpoint(run, part.shape)
        if part.system.split()[0] in TARGETS[run.device]:
            return _artifact(run, part, checkpoint)
        return _baseline(run, part, checkpoint)
    except Failed as failed:
        return {"failed": str(failed)}
    finally:
        run.ends = ends


def _checkpoint(run: Run, shape: str) -> Path:
    """Write a checkpoint, unless it is there."""
    folder = run.work / f"whisper-{shape}"
    if not (folder / "done").exists():
        arguments = [shape, str(folder), "--says", str(TOKENS), "--ranks", "made-up"]
        run.call(["benchmarks.random_checkpoints", *arguments], 120)
        (folder / "done").touch()
    return folder


def _artifact(run: Run, part: Part, checkpoint: Path) -> dict[str, Any]:
    """Build an artifact and time it in a fresh process."""
    kind, _, scheme = part.system.partition(" ")
    name = f"{part.shape}{scheme}".replace(".", "-")
    recipe = run.work / f"{name}.yaml"
    target = TARGETS[run.device][kind]
    recipe.write_text(
        f"name: {name}\ncheckpoint: {checkpoint.name}\ndecoding: {{language: en}}\n"
        f"quantization: {{default: {SCHEMES[scheme]}}}\ntargets:\n  - {target}\n",
        encoding="utf-8",
    )
    began = time.monotonic()
    out = run.work / "artifacts"
    run.call(["exporter", "build", str(recipe), "--output", str(out), "--force"], part.limit_s)
    row: dict[str, Any] = {"build_s": time.monotonic() - began}
    artifact = out / name / kind
    row["size_bytes"] = sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
    started = time.time()
    worker = ["benchmarks.cuda.workers.artifacts", str(artifact), run.device, str(LONGEST)]
    try:
        row |= _rows(run.call(worker, part.limit_s).stdout)[-1]
    except Failed as failed:
        return {**row, "failed": str(failed)}
    row["first_text_s"] = row.pop("first_text_at") - started
    return row


def _baseline(run: Run, part: Part, checkpoint: Path) -> dict[str, Any]:
    worker = "benchmarks.cuda.workers.baselines"
    done = run.call([worker, part.system, str(checkpoint), run.device, str(LONGEST)], part.limit_s)
    return _rows(done.stdout)[-1]


def _rows(printed: str) -> list[dict[str, Any]]:
    """Return the rows that a worker printed; each has all figures of those before it."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def _reason(printed: str) -> str:
    """Return the last lines of an error, in one line."""
    told = [line.strip() for line in printed.splitlines() if line.strip()]
    return " ".join(told[-3:])[-400:] or "it failed without a word"


def _about(run: Run) -> dict[str, Any]:
    """Return the card, its driver, and the versions of what runs on it."""
    code = (
        "import json, platform, torch, transformers\n"
        "told = dict(python=platform.python_version(), torch=torch.__version__,"
        " transformers=transformers.__version__)\n"
        "try:\n    import triton; told['triton'] = triton.__version__\n"
        "except ImportError: pass\n"
        "if torch.cuda.is_available():\n"
        "    card = torch.cuda.get_device_properties(0)\n"
        "    told |= dict(card=card.name, capability=[card.major, card.minor],"
        " multiprocessors=card.multi_processor_count, memory_bytes=card.total_memory,"
        " cuda=torch.version.cuda)\n"
        "print(json.dumps(told))"
    )
    done = subprocess.run([run.python, "-c", code], capture_output=True, text=True, check=False)
    rows = _rows(done.stdout)
    if not rows:
        msg = f"error: PyTorch and transformers cannot be used: {_reason(done.stderr)}"
        raise SystemExit(msg)
    return rows[-1]


def _environment(work: Path, wheels: Path) -> str:
    """Install wheels into an environment that sees the machine's packages."""
    folder = work / "environment"
    python = folder / "bin" / "python"
    create = [sys.executable, "-m", "venv", "--system-site-packages", str(folder)]
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    for command in (create, [*install, *map(str, sorted(wheels.glob("*.whl")))]):
        subprocess.run(command, check=True)
    return str(python)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time CUDA artifacts on the card of this machine.")
    parser.add_argument("--work", type=Path, required=True, help="A folder with 20 GB of room.")
    parser.add_argument("--results", type=Path, help="Default: WORK/check.json.")
    parser.add_argument("--wheels", type=Path, help="A folder of wheels to install first.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="Seconds in all.")
    shapes = list(dict.fromkeys(part.shape for part in PARTS))
    parser.add_argument("--shapes", nargs="+", choices=shapes, default=shapes)
    asked = parser.parse_args()
    asked.results = asked.results or asked.work / "check.json"
    return asked


if __name__ == "__main__":
    main()
