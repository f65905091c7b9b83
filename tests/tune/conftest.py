"""A tiny recipe to tune, clips to judge and others to rank on, and trials that take no time."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.artifact.manifest import Manifest
from exporter.artifact.report import Interval
from exporter.bench import microbench
from exporter.quantization.groups import ModuleGroup
from exporter.system import signals
from exporter.tune import pipeline
from exporter.tune.results import Trial
from tests.support.golden import GOLDEN

Write = Callable[..., Path]

RECIPE = """\
# Toys.
name: tiny  # small
checkpoint: checkpoint
{shared}targets: {targets}
decoding: {{language: en, task: transcribe}}
{data}"""
DATA = "data: {clips: judging}\ngate: {min_clips: 1, max_wer_increase: 1}\n"
TARGETS = "[{kind: onnx-int8, preset: avx2}, {kind: torch-int8}]"
GROUPS = [
    "encoder, conv1 and conv2",
    *("encoder layer 0, self_attn", "encoder layer 0, feed-forward"),
    *("encoder layer 1, self_attn", "encoder layer 1, feed-forward"),
    *("decoder layer 0, self_attn", "decoder layer 0, encoder_attn"),
    "decoder layer 0, feed-forward",
    *("decoder layer 1, self_attn", "decoder layer 1, encoder_attn"),
    *("decoder layer 1, feed-forward", "head"),
]


@pytest.fixture
def write(tmp_path: Path, tiny_whisper: Path) -> Write:
    """Write a recipe with a `quantization`, targets and data."""
    shutil.copytree(tiny_whisper, tmp_path / "checkpoint")
    for seed, name in enumerate(("judging", "calibration")):
        write_clips(tmp_path / name, 3, seed)

    def call(shared: str = "", targets: str = TARGETS, data: str = DATA) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(RECIPE.format(shared=shared, targets=targets, data=data))
        return path

    return call


def write_clips(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    source, rows = np.random.default_rng(seed), []
    for number in range(count):
        samples = source.normal(0, 0.1, 16_000 + 800 * number)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        rows.append(f'{{"audio": "{number}.wav", "text": "red green blue"}}')
    (folder / "manifest.jsonl").write_text("\n".join(rows))


FRAGILE = {"encoder layer 1, feed-forward", "decoder layer 1, encoder_attn"}
# The modules of these groups that make them so.
CULPRITS = {"encoder layer 1, feed-forward, fc1", "decoder layer 1, encoder_attn, out_proj"}
RATES = {
    "products": [{"int8": 4e11, "float32": 1e11}],
    "memory": {"read_bytes_per_s": 1e10},
}
Judge = Callable[[Sequence[str]], bool]


def manifest() -> Manifest:
    sealed = Manifest.model_validate_json((GOLDEN / "v1-torch-int8/manifest.json").read_bytes())
    return sealed.model_copy(update={"files": ()})


def trial(names: Sequence[str], passed: bool, failed: str = "wer") -> Trial:
    value = 0.001 if passed else 0.2
    interval = {"low": value - 0.01, "high": value + 0.01, "level": 0.95}
    return Trial(
        quantized=tuple(names),
        verdict="passed" if passed else "failed",
        sentence="WER." if passed else "Too many words are wrong.",
        failed=() if passed else (failed,),
        wer=0.05 + value,
        wer_reference=0.05,
        wer_difference=Interval(value=value, **interval, resamples=1, seed=0, detectable=0.1),
        latency_ratio=1 - 0.04 * len(names),
        size_bytes=1_000_000 - 20_000 * len(names),
        seconds=100.0,
        manifest=manifest(),
    )


class Trials:
    """Stand for building and judging; `tried` are the plans, in their order."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, ...]] = []
        self.passes: Judge = lambda names: not (FRAGILE | CULPRITS) & set(names)
        self.failed = "wer"
        self.interrupt_at = 0

    def __call__(self, search: Any, groups: Sequence[ModuleGroup]) -> Trial:
        names = tuple(group.name for group in groups)
        search._subject.trial(names)  # its rules give exactly the plan
        if len(self.tried) + 1 == self.interrupt_at:
            raise KeyboardInterrupt
        self.tried.append(names)
        return trial(names, self.passes(names), self.failed)


@pytest.fixture
def trials(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_here: None
) -> Trials:
    """A recipe in the working folder, and a search whose trials take no time."""
    write()
    monkeypatch.chdir(tmp_path)
    made = Trials()
    monkeypatch.setattr(pipeline._Search, "_try", lambda *given: made(*given))
    monkeypatch.setattr(signals, "leave", lambda: None)  # this process goes on listening
    monkeypatch.setattr(microbench, "measure_fresh", lambda *_: RATES)
    measured = pipeline._Search._measure

    def fragile(self: Any, clips: Any, groups: Any, first: Any, keep: Any) -> None:
        """Measure, but let two groups be harmful, as only the trials know."""

        def kept(result: Any) -> None:
            if result.get("effect", {}).get("name") in FRAGILE | CULPRITS:
                result["effect"] |= {"kl_mean": 0.5, "top1": 0.7}
            keep(result)

        measured(self, clips, groups, first, kept)

    monkeypatch.setattr(pipeline._Search, "_measure", fragile)
    return made
