"""Small sealed artifacts whose report passed: enough to be pushed and pulled, not to be run."""

import hashlib
from pathlib import Path
from typing import Any

from exporter.artifact import report, store
from exporter.artifact.manifest import BuildFigures, Manifest, Origin, RecipeStamp, Requirements
from exporter.artifact.report import Figures, Interval, Report
from exporter.recipe import Recipe, read

RECIPE = """\
name: speech
checkpoint: openai/whisper-small
targets: [{kind: onnx-int8}]
decoding: {language: en}
data: {dataset: openslr/librispeech_asr, config: clean, split: test, max_clips: 200}
gate: {max_wer_increase: 0.005, max_latency_ratio: 1.0, min_clips: 50}
hub: {repo: org/speech, license: apache-2.0}
"""
CHECKPOINT = Origin(
    source="openai/whisper-small",
    revision="c" * 40,
    sha256="1" * 64,
    size_bytes=4000,
    parameters=1000,
)
PAGE = b"<!doctype html>\n"
PREDICTIONS = b'{"audio_filepath": "1.flac", "text": "a", "pred_text": "a"}\n'


def make(
    folder: Path,
    *,
    recipe: str = RECIPE,
    seed: int = 0,
    graphs: dict[str, bytes] | None = None,
    more: dict[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """Seal an artifact at `folder` and write its report, with `changes` to the manifest.

    Its files are `graphs`, if not those of onnx-int8, and `more`.
    """
    with store.stage(folder) as staged:
        files = {"config.json": b"{}\n", **(_graphs(seed) if graphs is None else graphs)}
        for name, data in {**files, **(more or {})}.items():
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_bytes(data)
        (staged / "recipe.yaml").write_text(recipe)
        read_back = read(staged / "recipe.yaml")
        store.seal(staged, _manifest(read_back, **changes))
        store.publish(staged, folder)
    judged(folder)
    return folder


def _graphs(seed: int) -> dict[str, bytes]:
    data = {"decoder_model_merged.onnx_data": bytes([seed, 1]) * 60_000}
    return {"encoder_model.onnx": bytes([seed]) * 5_000, **data}


def judged(folder: Path, **changes: Any) -> Report:
    """Write a report of the artifact as it is, passed unless `changes` say otherwise."""
    manifest, recipe = store.read_manifest(folder), read(folder / "recipe.yaml")
    (folder / report.PAGE).write_bytes(PAGE)
    (folder / report.PREDICTIONS).write_bytes(PREDICTIONS)
    return report.write(folder, _report(folder, manifest, recipe).model_copy(update=changes))


def _manifest(recipe: Recipe, **changes: Any) -> Manifest:
    given: dict[str, Any] = {
        "name": recipe.name,
        "kind": "onnx-int8",
        "family": "whisper",
        "options": {"preset": "avx512_vnni"},
        "recipe": RecipeStamp(name=recipe.name, sha256=recipe.sha256, source=recipe.path.name),
        "checkpoint": CHECKPOINT,
        "needs": Requirements(),
        "versions": {"exporter": "0.1", "torch": "2.13.0"},
        "machine": {"cpu": "AMD EPYC", "cores": 2},
        "build": BuildFigures(seconds=1.0, peak_rss_bytes=2),
        "build_key": "2" * 64,
    }
    return Manifest(**(given | changes))


def figures(wer: float, seconds: float, size: int) -> Figures:
    return Figures(
        wer=wer, cer=wer / 2, words=1000, substitutions=10, deletions=5, insertions=5,
        characters=5000, character_errors=50, empty_texts=0, looping_texts=0, tokens=1500,
        latency_median_s=seconds, latency_p95_s=2 * seconds, rtf=seconds / 10, rtfx=10 / seconds,
        load_s=0.1, peak_rss_bytes=500_000_000, size_bytes=size, passes=3, load_average=0.1,
    )  # fmt: skip


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(
        value=value, low=low, high=high, level=0.95, resamples=10_000, seed=0, detectable=0.001
    )


def _report(folder: Path, manifest: Manifest, recipe: Recipe) -> Report:
    data, origin = recipe.data, manifest.checkpoint
    return Report(
        created="2026-01-01T00:00:00+00:00",
        verdict="passed",
        sentence="WER -0.57 points, at most +0.18 points; 3.66 times as fast as the original.",
        checks=(report.Check(name="word errors", passed=True, sentence="within the gate"),),
        artifact=report.ArtifactStamp(
            digest=manifest.digest, name=folder.name, recipe=recipe.name, kind=manifest.kind,
            family=manifest.family, options=manifest.options, size_bytes=manifest.size_bytes,
        ),
        reference=report.ReferenceStamp(
            source=origin.source, revision=origin.revision, sha256=origin.sha256,
            size_bytes=origin.size_bytes, built_from=True,
        ),
        data=report.DataStamp(
            source=data.shown if data else "clips", sha256="3" * 64, clips=200, audio_s=1500.0,
            words=4000, max_clips=data.max_clips if data else None, seed=data.seed if data else 0,
        ),
        gate=recipe.gate,
        decoding=recipe.decoding,
        normaliser=report.NormaliserStamp(
            name="english", language="en", transformers="4.57.6", jiwer="4.0.0", spellings=1,
            spellings_sha256="4" * 64,
        ),
        environment=report.Environment(
            machine=manifest.machine, threads=2, versions={"torch": "2.13.0"}
        ),
        reference_figures=figures(0.0457, 0.3, 16_000_000),
        figures=figures(0.04, 0.08, 5_370_000),
        wer_difference=interval(-0.0057, -0.0151, 0.0018),
        cer_difference=interval(-0.002, -0.006, 0.001),
        latency_ratio=interval(0.27, 0.26, 0.28),
        clips_changed=3,
        slices=(),
        worst=(),
        predictions_sha256=hashlib.sha256(PREDICTIONS).hexdigest(),
        page_sha256=hashlib.sha256(PAGE).hexdigest(),
    )  # fmt: skip
