"""static-int8 from recipe to transcript: calibrated once, recorded, and what validation finds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.artifact import store
from exporter.artifact.manifest import Manifest
from exporter.build import worker_steps
from exporter.cli import main
from exporter.quantization.plan import QuantizationPlan
from exporter.recipe import Decoding
from exporter.recognition.load import load

RECIPE = """\
name: tiny
checkpoint: {checkpoint}
quantization:
  modules:
    "model.encoder.*": static-int8
  calibration: {{clips: calibration, count: 3, method: {method}}}
targets: [{targets}]
decoding: {{language: en, task: transcribe, num_beams: 2}}
data: {{clips: data}}
gate: {{max_wer_increase: 1, max_latency_ratio: 1000, min_clips: 1, max_reference_wer: 1000}}
"""


def sound(number: int) -> Any:
    seconds = np.arange(24_000) / 16_000
    random = np.random.default_rng(number)
    tone = np.sin(2 * np.pi * (200 + 90 * number) * seconds * (1 + 0.1 * np.sin(3 * seconds)))
    return (0.2 * tone + 0.02 * random.normal(size=seconds.size)).astype(np.float32)


def write(folder: Path, checkpoint: Path, targets: str, method: str = "percentile") -> Path:
    for name, numbers in (("calibration", range(4)), ("data", range(10, 13))):
        (folder / name).mkdir(exist_ok=True)
        rows = []
        for n in numbers:
            soundfile.write(folder / name / f"{n}.wav", sound(n), 16_000)
            rows.append(json.dumps({"audio": f"{n}.wav", "text": "red green blue"}) + "\n")
        (folder / name / "manifest.jsonl").write_text("".join(rows))
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint, targets=targets, method=method))
    return path


def plan_of(manifest: Manifest) -> QuantizationPlan:
    return QuantizationPlan.from_data(g.model_dump(mode="json") for g in manifest.quantization)


@pytest.mark.usefixtures("steps_here")
def test_ranges_are_calibrated_once_and_recorded(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = "{kind: torch-int8, name: one}, {kind: torch-int8, name: two}"
    path, out = write(tmp_path, tiny_whisper, kinds), tmp_path / "out"
    runs: list[str] = []
    once = worker_steps._ranges

    def counted(*asked: Any) -> Any:
        runs.append("run")
        return once(*asked)

    monkeypatch.setattr(worker_steps, "_ranges", counted)
    assert main(["build", str(path), "--output", str(out)]) == 0
    assert len(runs) == 1
    one, two = (store.verify(out / "tiny" / name) for name in ("one", "two"))
    assert plan_of(one) == plan_of(two)
    plan, told = plan_of(one), one.calibration
    assert told is not None
    assert (told.method, told.percentile, told.clips, told.seconds) == ("percentile", 99.99, 3, 4.5)
    assert {"model.encoder.conv1", "model.encoder.conv2"} <= set(plan.calibrated)
    for name in plan.calibrated:
        low, high = plan.modules[name].parameters["low"], plan.modules[name].parameters["high"]
        assert low <= 0 <= high
        assert low < high
    after_gelu = plan.modules["model.encoder.layers.0.fc2"].parameters
    assert after_gelu["low"] == pytest.approx(-0.17, abs=0.01)
    assert load(out / "tiny" / "one").decode([sound(1)], Decoding(language="en"))[0].text

    other = tmp_path / "other"  # the same again: the graphs' cache has the ranges
    assert main(["build", str(path), "--output", str(other), "--target", "one"]) == 0
    assert len(runs) == 1
    path = write(tmp_path, tiny_whisper, kinds, "mse")
    third = tmp_path / "third"  # which has those of every method
    assert main(["build", str(path), "--output", str(third), "--target", "one"]) == 0
    assert len(runs) == 1
    again = [str(path), "--output", str(other), "--target", "one"]
    assert main(["build", *again]) == 2, "another plan is another artifact"
    assert main(["build", *again, "--force"]) == 0
    assert len(runs) == 2
    renewed = store.verify(other / "tiny" / "one")
    assert renewed.calibration is not None
    assert (renewed.calibration.method, renewed.calibration.percentile) == ("mse", None)
    assert plan_of(renewed) != plan


@pytest.mark.usefixtures("steps_here")
def test_a_plan_tells_that_it_will_calibrate(
    tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, tiny_whisper, "{kind: torch-int8}", "entropy")
    assert main(["build", str(path), "--dry-run"]) == 0
    assert "are calibrated first: entropy on 3 clips" in capfd.readouterr().out
    assert main(["build", str(path), "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["plan"][0]["calibration"] == "entropy on 3 clips"


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
@pytest.mark.parametrize("kind", ["onnx-int8", "torch-int8", "aoti"])
def test_what_is_built_is_what_the_plan_says(
    kind: str, tiny_whisper: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path, tiny_whisper, f"{{kind: {kind}}}"), tmp_path / "out"
    assert main(["build", str(path), "--output", str(out)]) == 0
    code = main(["validate", str(out / "tiny" / kind), "--threads=1"])
    assert code == 0, capfd.readouterr().out
