"""A handful of plants on artifacts of toy size; `make damage` plants them all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.artifact import store
from exporter.artifact.trust import verify_and_authorize
from exporter.build.pipeline import build
from exporter.recipe import read
from exporter.validate import validate
from tests.damage import grounds, judging
from tests.damage.grounds import GROUNDS, Ground
from tests.damage.honest import builds
from tests.damage.judging import Outcome
from tests.damage.planting import SEVERITIES, Plant, plant
from tests.damage.plants import all_plants
from tests.damage.plants.companions import edit
from tests.damage.table import table
from tests.damage.tensors import tensors_of
from tests.support.in_process import steps_in_process

PLANTS = {each.name: each for each in all_plants()}
BUILT = ("onnx-int8", "torch-int8", "torch-mixed")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The tiny ground with three artifacts, made for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounds, "WORK", tmp_path_factory.mktemp("damage"))
        made = GROUNDS["tiny"]
        grounds.prepare_data(made)
        path = made.folder / "recipe.yaml"
        path.write_text(made.recipe([grounds.TARGETS[name] for name in BUILT]))
        with steps_in_process():
            build(read(path), output=made.folder / "artifacts", progress=lambda *_: None)
        yield made


Judged = Callable[[str], Outcome]


@pytest.fixture
def judged(ground: Ground, tmp_path: Path) -> Judged:
    """Plant one in a copy, validate that in this process, and read the outcome."""

    def judge(name: str) -> Outcome:
        one = PLANTS[name]
        folder = plant(ground.artifact(one.artifact), tmp_path / name, one)
        with steps_in_process():
            validate([folder], threads=1, clips=16)
        return judging.of_report(folder, 0.0)

    return judge


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scale-inverse", "stale-one-weight", "embedding-rolled"])
def test_damage_that_changes_most_texts_fails(judged: Judged, name: str) -> None:
    assert judged(name).verdict == "failed"


@pytest.mark.slow
def test_a_range_of_another_module_fails_though_manifest_and_tensors_agree(judged: Judged) -> None:
    outcome = judged("calibrated-ranges-swapped-conv")
    assert (outcome.verdict, "ranges" in outcome.checks) == ("failed", True)
    assert "weights" not in outcome.checks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch-int8", "torch-mixed"])
def test_an_undamaged_copy_does_not_fail(ground: Ground, tmp_path: Path, kind: str) -> None:
    folder = plant(ground.artifact(kind), tmp_path / "copy", _none())
    with steps_in_process():
        validate([folder], threads=1, clips=16)
    assert judging.of_report(folder, 0.0).verdict != "failed"


def _none() -> Plant:
    return Plant("nothing", "tiny", "torch-int8", "latent", ("nothing",))


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILT)
def test_a_planted_artifact_is_sealed_and_differs(
    ground: Ground, tmp_path: Path, kind: str
) -> None:
    of_kind = [each for each in all_plants() if (each.ground, each.artifact) == ("tiny", kind)]
    before = store.read_manifest(ground.artifact(kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounds, "WORK", ground.folder.parents[1])
        for one in of_kind:
            if one.data or one.reference or "english" in one.name:
                continue
            folder = plant(ground.artifact(kind), tmp_path / one.name, one)
            assert verify_and_authorize(folder, trust=True).digest != before.digest, one.name
            shutil.rmtree(folder)


@pytest.mark.slow
def test_tensors_have_the_same_names_and_values_in_every_target(ground: Ground) -> None:
    with tensors_of(ground.artifact("torch-int8")) as torch_side:
        plain = dict(torch_side)
    with tensors_of(ground.artifact("onnx-int8")) as onnx_side:
        assert onnx_side.keys() == plain.keys()
        for name, tensor in onnx_side.items():
            # torch's convolutions are [out, in, taps], of which a graph makes [out, taps * in].
            rows = tensor.dim() < plain[name].dim()
            stored = plain[name].transpose(1, 2).flatten(1) if rows else plain[name]
            assert bool((tensor == stored).all()), name


def test_there_are_plants_of_every_kind() -> None:
    plants = all_plants()
    assert len(plants) >= 110
    assert {each.severity for each in plants} == set(SEVERITIES)
    assert {each.target for each in plants} == {"onnx-int8", "torch-int8", "aoti"}
    assert all(each.artifact in GROUNDS[each.ground].targets for each in plants)


def test_honest_builds_are_many_and_distinct() -> None:
    titles = [each.title for each in builds()]
    assert len(titles) >= 60
    assert len(set(titles)) == len(titles)


def test_an_artifact_that_ends_the_command_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five artifacts, one stops every command that has it; the message names none."""
    folders = [tmp_path / name for name in "abcde"]
    for folder in folders:
        folder.mkdir()

    def run(those: list[Path], _options: object) -> tuple[int, str]:
        if folders[3] in those:
            return 1, "error: This is a bug"
        for folder in those:
            report = {"verdict": "passed", "checks": [], "sentence": ""}
            (folder / "report.json").write_text(json.dumps(report))
        return 0, ""

    monkeypatch.setattr(judging, "_command", run)
    found = {folder.name: outcome.verdict for folder, outcome in judging.validate(folders).items()}
    assert found == {"a": "passed", "b": "passed", "c": "passed", "d": "bug", "e": "passed"}


def test_a_message_that_names_the_cause_is_counted(tmp_path: Path) -> None:
    one = Plant("hop", "tiny", "torch-int8", "subtle", ("hop_length",), edit("x", lambda _: None))
    told = Outcome("hop", "failed", ("companions",), "preprocessor_config.json: hop_length is 161")
    silent = Outcome("hop", "undecided", ("wer",), "WER +1.00")
    outcomes = [judging.of_plant(outcome, one) for outcome in (told, silent)]
    assert [outcome.led for outcome in outcomes] == [True, False]
    text = table(outcomes)
    assert "Not caught: 1" in text
    assert "companions" in text
