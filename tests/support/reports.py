"""A report with known figures."""

from pathlib import Path

from exporter.artifact import report
from exporter.artifact.evidence import Agreement, Faithfulness, GroupEffect
from exporter.artifact.report import Report
from exporter.recipe import Decoding
from exporter.validate.gate import judge as gate
from exporter.validate.scoring.compare import Comparison
from exporter.validate.scoring.normaliser import normaliser
from tests.support.judging import GATE

DIGEST = "ab" * 32
AGREEMENT = Agreement(clips=12, steps=166, kl_mean=9.5e-5, kl_max=0.0018, top1=1.0)
EFFECT = GroupEffect(name="head", modules=("proj_out",), kl_mean=0.1, top1=0.9)
FAITHFUL = Faithfulness(
    distance=0.0165,
    noise=0.0159,
    limit=1.5,
    exact_distance=2.7e-5,
    exact_noise=8e-5,
    exact_limit=4.2e-4,
    by_step=(2.05, 2.08, 1.5, 0.7),
    step_limit=6.0,
    seconds=9.0,
)


def made(one: Comparison) -> Report:
    judged = gate.judge(one, GATE, files=9)
    return Report(
        created="2030-01-01T00:00:00+00:00",
        verdict=judged.verdict,
        sentence=judged.sentence,
        checks=judged.checks,
        artifact=report.ArtifactStamp(
            digest=DIGEST, name="onnx-int8", recipe="demo", kind="onnx-int8", family="whisper",
            options={"preset": "avx512_vnni"}, size_bytes=30,
        ),
        reference=report.ReferenceStamp(
            source="org/<name>", revision=None, sha256=DIGEST, size_bytes=100, built_from=True
        ),
        data=report.DataStamp(
            source="clips", sha256=DIGEST, clips=len(one.durations_s), audio_s=1.0, words=10,
            max_clips=None, seed=0,
        ),
        corpus=one.corpus_facts(),
        gate=GATE,
        decoding=Decoding(language="en"),
        normaliser=normaliser("en", Path()).stamp,
        environment=report.Environment(
            machine=one.candidate.measurement.machine, threads=2, versions={"torch": "2"}
        ),
        reference_figures=gate.figures(one.reference, one.timed_audio_s),
        figures=gate.figures(one.candidate, one.timed_audio_s),
        wer_difference=judged.wer_difference,
        cer_difference=judged.cer_difference,
        latency_ratio=judged.latency_ratio,
        latency_ratio_p95=judged.latency_ratio_p95,
        units=judged.units,
        timed_clips=len(one.timed),
        clips_changed=len(one.changed),
        slices=gate.slices(one),
        worst=gate.worst(one),
        predictions_sha256=DIGEST,
    )  # fmt: skip
