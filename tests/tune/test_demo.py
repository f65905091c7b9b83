"""The whole search on a real recogniser, two of whose blocks do not bear int8."""

import json
import re
import shutil
from pathlib import Path

import pytest

from exporter.bench import microbench
from exporter.build import pipeline as builder
from exporter.cli import main
from exporter.recipe import read
from exporter.system.progress import silent
from exporter.tune.results import Figures
from tests.support.fragile import make_fragile

RECIPE = """\
# Speech of the demo, with outliers in its activations.
name: fragile
checkpoint: checkpoint
targets:
  - {kind: torch-int8}  # the quickest to build
decoding: {language: en, task: transcribe}
data: {clips: judging}
gate: {max_wer_increase: 0.05, max_latency_ratio: 9.0, min_clips: 50}
"""
RANKED = ["--clips", "calibration"]
FRAGILE = ["encoder layer 1, feed-forward", "encoder layer 2, feed-forward"]
RATES = {
    "products": [{"int8": 4e11, "float32": 1e11}],
    "memory": {"read_bytes_per_s": 1e10},
}


@pytest.fixture
def fragile(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for a fragile checkpoint, 50 clips to judge on and 4 for calibration."""
    demo = repository / "recipes" / "demo"
    blocks = ["model.encoder.layers.1", "model.encoder.layers.2"]
    make_fragile(demo / "whisper", tmp_path / "checkpoint", blocks)
    rows = (demo / "clips" / "manifest.jsonl").read_text().splitlines()
    short = [row for row in rows if json.loads(row)["audio"].startswith("short")]
    for name, some in (("judging", short[:50]), ("calibration", short[50:54])):
        (tmp_path / name).mkdir()
        for row in some:
            shutil.copy(demo / "clips" / json.loads(row)["audio"], tmp_path / name)
        (tmp_path / name / "manifest.jsonl").write_text("\n".join(some))
    recipe = tmp_path / "fragile.yaml"
    recipe.write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(microbench, "measure_fresh", lambda *_: RATES)
    return recipe


@pytest.mark.slow
def test_a_plan_is_found_that_passes_and_keeps_most_of_the_gain(
    fragile: Path, steps_here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "fragile.yaml", *RANKED, "--for", "size", "--threads", "1"]) == 0
    printed = capfd.readouterr()
    found = Figures.model_validate_json(Path("fragile-tuned.json").read_bytes())
    assert not found.trials[0].passed, "int8 everywhere fails the gate"
    assert "wer" in found.trials[0].failed
    assert found.chosen is not None
    assert found.trials[found.chosen].passed
    assert found.kept is not None
    assert found.kept >= 0.8, "of the bytes that int8 saves"
    left = [f"{name}, fc1" for name in FRAGILE]
    assert set(left) <= {group.name for group in found.groups if not group.quantized}
    for name in left:
        assert name in printed.out
    assert "about" in printed.err, "it tells how long it will take"
    page = Path("fragile-tuned.html").read_text()
    assert all(name in page for name in FRAGILE)
    assert not Path(".tune-fragile-tuned").exists(), "a finished search leaves no folder"
    text = Path("fragile-tuned.yaml").read_text()
    assert "# the quickest to build" in text
    for number in (1, 2):
        assert re.search(rf"model\.encoder\.layers\.(\[1-2\]|{number})\.fc.*: float", text)
    (built,) = builder.build(
        read(Path("fragile-tuned.yaml")), output=Path("artifacts"), progress=silent
    )
    assert built.manifest.name == "fragile-tuned"
    assert built.manifest.size_bytes < 1.01 * found.trials[found.chosen].size_bytes


@pytest.mark.slow
def test_a_failed_gate_names_the_modules_to_blame(
    fragile: Path, steps_here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "fragile.yaml"]) == 0
    capfd.readouterr()
    folder = "artifacts/fragile/torch-int8"
    assert main(["validate", folder, "--threads", "1", "--json"]) == 4
    report = json.loads(capfd.readouterr().out)["reports"][0]["report"]
    (check,) = [each for each in report["checks"] if each["name"] == "wer"]
    assert check["advice"].count("feed-forward") == 2
    for name in FRAGILE:
        assert name in check["advice"]
        assert name in report["sentence"]
    assert "exporter tune fragile.yaml" in check["advice"]
    assert len(report["groups"]) == 19
    assert FRAGILE[0] in Path(folder, "report.html").read_text()
