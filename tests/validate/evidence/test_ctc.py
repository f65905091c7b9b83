"""What a build makes of a CTC model passes validation, with its front end quantized."""

from pathlib import Path

import pytest

from exporter import recipe
from exporter.build.pipeline import build
from exporter.system.progress import silent
from exporter.validate import validate
from tests.support.in_process import steps_in_process
from tests.support.tiny_ctc import make_clips, make_ctc

RECIPE = """\
name: letters
checkpoint: checkpoint
targets: [{kind: onnx-int8}, {kind: torch-int8}]
data: {clips: clips}
gate: {max_wer_increase: 1.0, max_latency_ratio: 1000, max_reference_wer: 1000, min_clips: 2}
"""


@pytest.mark.slow
def test_quantized_convolutions_are_compared_without_rounding(tmp_path: Path) -> None:
    make_ctc(tmp_path / "checkpoint")
    make_clips(tmp_path / "clips", 4)
    (tmp_path / "letters.yaml").write_text(RECIPE)
    with steps_in_process():
        made = build(
            recipe.read(tmp_path / "letters.yaml"), output=tmp_path / "out", progress=silent
        )
        reports = validate([each.path for each in made], threads=1)
    for report in reports:
        checks = {check.name: check for check in report.checks}
        assert {n for n, check in checks.items() if check.passed is False} == set()
        assert report.faithfulness is not None
        assert report.faithfulness.exact_distance is not None
        assert report.faithfulness.exact_distance < 1e-5
