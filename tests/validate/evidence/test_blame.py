"""Which groups of modules a failed gate blames, and how much each does alone."""

from pathlib import Path

import pytest

from exporter.artifact import store
from exporter.artifact.evidence import Agreement, Faithfulness, GroupEffect
from exporter.artifact.manifest import Calibration
from exporter.artifact.report import Check
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.recipe import Decoding
from exporter.system.progress import silent
from exporter.validate.evidence import blame
from exporter.validate.evidence.blame import (
    advice_on,
    effects_of,
    explains,
    is_due,
    most_to_blame,
    search_of,
)
from exporter.validate.measure.model import ModelSpec
from tests.support.built import build_tiny
from tests.support.fragile import make_fragile
from tests.tune.conftest import trial, write_clips


def effects(*divergences: float) -> list[GroupEffect]:
    return [
        GroupEffect(name=f"group {n}", modules=("m",), kl_mean=each, top1=0.9)
        for n, each in enumerate(divergences)
    ]


@pytest.mark.parametrize(
    ("divergences", "blamed"),
    [
        ([1e-5] * 8 + [0.03, 0.09], [9, 8]),
        ([0.01] * 4 + [0.2] + [0.01] * 5, [4]),
        ([0.01] * 10, []),
        ([0.0] * 10, []),
        ([0.5], [0]),
        ([], []),
    ],
)
def test_the_few_that_cause_most_of_it(divergences: list[float], blamed: list[int]) -> None:
    found = most_to_blame(effects(*divergences))
    assert [effect.name for effect in found] == [f"group {n}" for n in blamed]


def checks(**outcomes: bool | None) -> list[Check]:
    named = ((name.replace("_", " "), passed) for name, passed in outcomes.items())
    return [Check(name=name, passed=passed, sentence=".") for name, passed in named]


def test_the_plan_is_blamed_for_words_alone() -> None:
    assert is_due(checks(wer=False, latency=False, faithful=True))
    assert is_due(checks(texts=False, wer=None))
    assert not is_due(checks(wer=False, weights=False)), "the weights are to blame"
    assert not is_due(checks(wer=False, reference=None)), "it was built from another original"
    assert not is_due(checks(wer=None, latency=False))
    assert not is_due(checks(wer=True))


def test_single_steps_off_by_rounding_are_the_plan_s_where_it_is_exact_without() -> None:
    found = Faithfulness(
        distance=1.0,
        noise=1.0,
        limit=2.0,
        exact_distance=1e-7,
        exact_noise=1e-7,
        exact_limit=1e-5,
        by_step=(9.0,),
        step_limit=6.0,
        seconds=1.0,
    )
    off = checks(wer=False, faithful=False, inputs=False)
    assert not is_due(off)
    assert is_due(off, found)
    assert not is_due(off, found.model_copy(update={"exact_distance": 1e-3}))
    assert not is_due(checks(wer=False, faithful=False, weights=False), found)
    whole = Agreement(clips=1, steps=9, kl_mean=0.4, kl_max=1.0, top1=0.5)
    assert explains(effects(0.1, 0.28), off, whole)
    assert not explains(effects(0.1, 1e-5), off, whole), "something else does that"
    assert explains(effects(1e-5), checks(wer=False, faithful=True), whole)


def test_advice() -> None:
    few, even = effects(*[1e-5] * 8, 0.03, 0.09), effects(*[0.1] * 10)
    told = advice_on(few, "`search`", frames=False)
    assert "comes from group 9 (KL 0.09); group 8 (KL 0.03), by the next tokens" in told
    assert "`search` finds a plan" in told
    assert "No group of modules stands out" in advice_on(even, "`search`", frames=False)
    assert "changes the frames most" in advice_on(even, "`search`", frames=True)
    assert "takes longer than a validation" in advice_on((), "`search`", frames=False)


def test_the_command_that_searches() -> None:
    plain = trial((), passed=True).manifest
    source = plain.recipe.source
    assert search_of(plain, "one") == f"`exporter tune {source} -t one --clips FOLDER`"
    found = Calibration(method="mse", clips=2, sha256="0" * 64, seconds=2.0)
    calibrated = plain.model_copy(update={"calibration": found})
    assert search_of(calibrated, "one") == f"`exporter tune {source} -t one`"


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory, tiny_whisper: Path) -> tuple[Path, Path]:
    """A tiny checkpoint with outliers in one block, and its artifact."""
    folder = tmp_path_factory.mktemp("fragile")
    checkpoint = make_fragile(tiny_whisper, folder / "checkpoint", ["model.encoder.layers.1"], 4096)
    built = build_tiny(folder, checkpoint, "[{kind: torch-int8}]")
    return checkpoint, built["torch-int8"]


def measured(fragile: tuple[Path, Path], tmp_path: Path) -> tuple[GroupEffect, ...]:
    checkpoint, artifact = fragile
    write_clips(tmp_path / "clips", 2, 5)
    decoding = Decoding(language="en", task="transcribe")
    original = ModelSpec(model=checkpoint, original=True, threads=1, decoding=decoding)
    clips = sorted((tmp_path / "clips").glob("*.wav"))
    return effects_of(original, store.read_manifest(artifact), clips, "tiny", silent)


def test_the_fragile_group_does_the_most_harm(
    fragile: tuple[Path, Path], tmp_path: Path, steps_here: None
) -> None:
    found = measured(fragile, tmp_path)
    assert len(found) == 12
    worst = max(found, key=lambda effect: effect.kl_mean)
    assert worst.name == "encoder layer 1, feed-forward"
    others = [effect.kl_mean for effect in found if effect is not worst]
    assert worst.kl_mean > 5 * max(others)
    assert all(effect.kl_mean > 0 and 0 <= effect.top1 <= 1 for effect in found)
    assert sum(len(effect.modules) for effect in found) == _products(fragile[0])


def _products(checkpoint: Path) -> int:
    names = open_checkpoint(str(checkpoint)).tensors
    kinds = ("proj.weight", "fc1.weight", "fc2.weight", "conv1.weight", "conv2.weight")
    return sum(name.endswith(kinds) for name in names) + 2  # and the head, with its table


def test_what_takes_too_long_is_left_out(
    fragile: tuple[Path, Path],
    tmp_path: Path,
    steps_here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blame, "LIMIT_S", 0.0)
    assert measured(fragile, tmp_path) == ()
