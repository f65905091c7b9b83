"""Plans with static-int8: calibrated once for the ranking, all plans and the recipe found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.artifact import store
from exporter.build import pipeline as builder
from exporter.build import worker_steps
from exporter.cli import main
from exporter.quantization.groups import ModuleGroup
from exporter.quantization.plan import QuantizationPlan
from exporter.recipe import read
from exporter.system.progress import silent
from exporter.tune import pipeline
from exporter.tune.results import Figures, Trial
from exporter.tune.subject import Subject, open_subject
from exporter.validate.evidence.results import SensitivityRequest
from tests.tune.conftest import GROUPS, TARGETS, Trials, Write, trial

ENCODER = [name for name in GROUPS if name.startswith("encoder layer")]
STATIC = "quantization:\n  modules:\n    {patterns}  {calibration}"
CALIBRATION = "calibration: {clips: calibration, count: 2, method: minmax}  # ours\n"
PATTERNS = '"model.encoder.layers.*": static-int8\n'
SHARED = STATIC.format(patterns=PATTERNS, calibration=CALIBRATION)


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each calibration that ran, its number of modules."""
    runs: list[int] = []
    once = worker_steps._ranges

    def counted(request: Any, *more: Any) -> Any:
        runs.append(len(request["modules"]))
        return once(request, *more)

    monkeypatch.setattr(worker_steps, "_ranges", counted)
    return runs


def subject(path: Path, target: str | None = None) -> Subject:
    return open_subject(read(path), target, path.parent / "work", silent)


def written(one: Subject, left: set[str], name: str = "out.yaml") -> str:
    """The text without the groups `left`, which builds: its plan and calibration are checked."""
    quantized = [group.name for group in one.groups if group.name not in left]
    place = one.recipe.path.parent / name
    place.parent.mkdir(exist_ok=True)
    text = one.text(quantized, "Found.", place)
    place.write_text(text)
    made = read(place)
    one.require_plan(made, quantized)
    builder.dry_run(made, output=place.parent / "artifacts", progress=silent)
    return text


def test_the_calibration_stays_while_a_module_needs_it(write: Write) -> None:
    one = subject(write(SHARED))
    text = written(one, {ENCODER[0], "head"})
    assert 'calibration: {"clips": "calibration", "count": 2, "method": "minmax"}' in text
    assert text.count("calibration:") == 1
    assert '"model.encoder.layers.*": static-int8' in text
    assert "clips: ../calibration" in written(one, {"head"}, "sub/out.yaml").replace('"', "")


def test_a_calibration_that_nothing_needs_goes(write: Write) -> None:
    text = written(subject(write(SHARED)), set(ENCODER))
    assert "calibration" not in text
    assert "static-int8" not in text


def test_a_target_has_a_calibration_of_its_own(write: Write) -> None:
    own = (
        '{modules: {"model.encoder.layers.*": static-int8}, '
        "calibration: {clips: calibration, method: percentile, percentile: 99.9}}"
    )
    targets = f"[{{kind: torch-int8, quantization: {own}}}, {{kind: torch-int8, name: other}}]"
    one = subject(write(targets=targets))
    text = written(one, {"head"})
    assert '"calibration": {"clips": "calibration", "method": "percentile"' in text
    assert "calibration" not in written(one, set(ENCODER))
    written(one, {"head"}, "sub/out.yaml")
    made = read(one.recipe.path.parent / "sub/out.yaml").targets[0].quantization
    assert made is not None
    assert made.calibration is not None
    assert made.calibration.clips == "../calibration"


OWN = (
    "[{{kind: torch-int8, quantization: "
    '{{modules: {{"model.encoder.layers.*": static-int8}}}}}}{more}]'
)


@pytest.mark.parametrize(
    ("more", "stays"),
    [
        ("", False),
        (", {kind: torch-int8, name: other, quantization: {default: float}}", False),
        (", {kind: torch-int8, name: other, quantization: {default: static-int8}}", True),
    ],
)
def test_a_calibration_of_all_targets_stays_while_one_needs_it(
    write: Write, more: str, stays: bool
) -> None:
    shared = f"quantization:\n  default: dynamic-int8\n  {CALIBRATION}"
    one = subject(write(shared, targets=OWN.format(more=more)))
    text = written(one, set(ENCODER))
    assert ("calibration: {clips: calibration" in text) is stays
    assert "# small" in text, "comments stay"


def test_a_target_is_built_alone_where_only_another_is_calibrated(write: Write) -> None:
    targets = (
        f"{TARGETS[:-1]}, {{kind: torch-int8, name: plain, quantization: {{default: float}}}}]"
    )
    recipe = read(write(SHARED, targets=targets))
    (row,), _ = builder.dry_run(
        recipe, output=recipe.path.parent / "artifacts", targets=["plain"], progress=silent
    )
    assert "calibration" not in row


class _Builds(Trials):
    """Build each plan, but judge it by its names."""

    def __init__(self) -> None:
        super().__init__()
        self.calibrated: list[tuple[str, ...]] = []

    def __call__(self, search: Any, groups: Sequence[ModuleGroup]) -> Trial:
        names = tuple(group.name for group in groups)
        one, out = search._subject, Path("artifacts") / str(len(self.tried))
        (built,) = builder.build(
            one.trial(names),
            output=out,
            calibrated=one.calibrated,
            progress=silent,
        )
        self.tried.append(names)
        sealed = store.read_manifest(built.path)
        plan = QuantizationPlan.from_data(g.model_dump(mode="json") for g in sealed.quantization)
        self.calibrated.append(plan.calibrated)
        assert (sealed.calibration is not None) is bool(plan.calibrated)
        passed = self.passes(names)
        return trial(names, passed).model_copy(
            update={"manifest": sealed.model_copy(update={"files": ()})}
        )


@pytest.fixture
def builds(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_here: None
) -> _Builds:
    """A recipe with static modules in the working folder, whose plans are really built."""
    write(SHARED, targets="[{kind: torch-int8}]")
    monkeypatch.chdir(tmp_path)
    made = _Builds()
    monkeypatch.setattr(pipeline._Search, "_try", lambda *given: made(*given))
    return made


def test_one_calibration_serves_the_ranking_and_every_plan(
    builds: _Builds,
    ranges: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without --clips, the groups are ranked on the recipe's calibration."""
    builds.passes = lambda names: not any(name.startswith("encoder") for name in names)
    asked: list[SensitivityRequest] = []
    measured = pipeline.SensitivityRequest

    def kept(**given: Any) -> SensitivityRequest:
        asked.append(measured(**given))
        return asked[-1]

    monkeypatch.setattr(pipeline, "SensitivityRequest", kept)
    assert main(["tune", "tiny.yaml", "--for", "size", "--threads", "1"]) == 0
    assert "to calibrate minmax on 2 clips" in capfd.readouterr().err
    assert ranges == [12]
    assert builds.calibrated[0], "everything quantized comes first"
    assert () in builds.calibrated, "a plan without static modules builds too"
    ranking = asked[-1]
    plan = QuantizationPlan.from_data(ranking.plan)
    for name in plan.calibrated:
        given = plan.modules[name].parameters
        assert given["low"] < 0 < given["high"], "inputs are rounded with the calibrated range"
    folder = Path("calibration").resolve()
    assert {clip.parent for clip in ranking.clips} == {folder}
    found = Figures.model_validate_json(Path("tiny-tuned.json").read_bytes())
    assert found.clips == 2
    left = {group.name for group in found.groups if not group.quantized}
    assert sum(name.startswith("encoder layer") for name in left) == 12, "modules of four groups"
    assert main(["build", "tiny-tuned.yaml"]) == 0
    assert ranges == [12]


def test_a_calibration_that_judges_does_not_rank(
    trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = Path("tiny.yaml")
    shared = SHARED.replace("clips: calibration", "clips: judging")
    recipe.write_text(recipe.read_text().replace("targets:", f"{shared}targets:"))
    assert main(["tune", "tiny.yaml"]) == 3
    error = capfd.readouterr().err
    assert "error: calibration.clips: " in error
    assert ".wav is among the recipe's data" in error
    assert "Give other recordings to --clips" in error
