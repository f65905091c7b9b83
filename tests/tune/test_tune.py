"""The search as a user sees it, with trials that stand for builds and verdicts."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.cli import main
from exporter.quantization.groups import ModuleGroup
from exporter.recipe import read
from exporter.tune import pipeline
from exporter.tune.results import Figures, Trial
from tests.tune.conftest import CULPRITS, FRAGILE, GROUPS, Trials


def tune(*more: str) -> int:
    return main(["tune", "tiny.yaml", "--clips", "calibration", "--threads", "1", *more])


def figures() -> Figures:
    return Figures.model_validate_json(Path("tiny-tuned.json").read_bytes())


def test_the_fragile_groups_are_left_in_float(
    trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tune() == 0
    out, err = capfd.readouterr()
    assert trials.tried[0] == tuple(GROUPS), "everything quantized comes first"
    assert FRAGILE & set(trials.tried[1]) == set()
    assert len(trials.tried) == 5
    found = figures()
    assert {group.name for group in found.groups if not group.quantized} == CULPRITS
    assert "12 groups of modules, ranked on 3 clips" in err
    assert "at most 10 plans" in err
    assert "of memory" in err
    assert "14 of 16 groups stay quantized" in out
    for name in CULPRITS:
        assert name in out
    page = Path("tiny-tuned.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count('class="bar"') == len(GROUPS) + 4, "two are shown by their modules"
    assert 'class="chosen"' in page
    made = read(Path("tiny-tuned.yaml"))
    assert made.name == "tiny-tuned"
    assert made.quantization is not None
    assert set(made.quantization.modules) == {
        "model.encoder.layers.1.fc1",
        "model.decoder.layers.1.encoder_attn.out_proj",
    }
    assert not Path(".tune-tiny-tuned").exists()


def test_a_plan_that_passes_as_it_is_needs_no_ranking(
    trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    trials.passes = lambda _: True
    assert tune("--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["recipe"] == "tiny-tuned.yaml"
    assert told["search"]["chosen"] == 0
    assert len(trials.tried) == 1
    assert all(group.effect is None for group in figures().groups)
    assert "not ranked" in Path("tiny-tuned.html").read_text()


def test_by_size_a_group_that_costs_bytes_is_left_alone(trials: Trials) -> None:
    """A head that is the token table stores nothing of its own until the table is another."""
    trials.passes = lambda _: True
    recipe = Path("tiny.yaml")
    rules = 'quantization: {modules: {"*.embed_tokens": float}}'
    recipe.write_text(recipe.read_text().replace("targets:", f"{rules}\ntargets:"))
    assert tune("--for", "size", "-t", "torch-int8") == 0
    assert trials.tried == [tuple(name for name in GROUPS if name != "head")]
    assert {g.name: g.saved < 0 for g in figures().groups if g.saved < 0} == {"head": True}


def test_by_size_a_head_with_its_table_saves_bytes(trials: Trials) -> None:
    trials.passes = lambda _: True
    assert tune("--for", "size", "-t", "torch-int8") == 0
    assert trials.tried == [tuple(GROUPS)]


def test_nothing_passes(trials: Trials, capfd: pytest.CaptureFixture[str]) -> None:
    trials.passes = lambda _: False
    assert tune() == 4
    assert trials.tried[-1] == ()
    assert "not even with all groups in float: Too many words" in capfd.readouterr().err
    assert not Path("tiny-tuned.yaml").exists()
    assert "No plan passed" in Path("tiny-tuned.html").read_text()


def test_data_that_no_plan_can_pass_end_the_search(
    trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    trials.passes, trials.failed = (lambda _: False), "clips"
    assert tune() == 4
    assert len(trials.tried) == 1
    assert "no plan can pass this gate on these data" in capfd.readouterr().err


def test_too_few_clips_are_told_before_anything_is_done(
    trials: Trials, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = Path("tiny.yaml")
    recipe.write_text(recipe.read_text().replace("min_clips: 1", "min_clips: 60"))
    assert tune() == 4
    assert "no plan could pass the gate of tiny.yaml: 3 clips are fewer" in capfd.readouterr().err
    assert not trials.tried


def test_an_interrupted_search_goes_on(trials: Trials, capfd: pytest.CaptureFixture[str]) -> None:
    trials.interrupt_at = 2
    assert tune() == 130
    kept = sorted(path.name for path in Path(".tune-tiny-tuned").glob("*.json"))
    assert sum(name.startswith("trial-") for name in kept) == 1
    assert sum(name.startswith("effect-") for name in kept) == len(GROUPS)
    assert not Path("tiny-tuned.yaml").exists()
    trials.interrupt_at = 0
    assert tune() == 0
    assert "which judged 1 plan" in capfd.readouterr().err
    assert len(trials.tried) == len(set(trials.tried)) == 5, "no plan is judged again"
    assert figures().chosen is not None


def test_other_clips_begin_a_search_anew(trials: Trials) -> None:
    trials.interrupt_at = 2
    assert tune() == 130
    trials.interrupt_at = 0
    assert tune("--count", "2") == 0
    assert len(trials.tried) == 6


def test_time_that_is_over_gives_the_best_plan_so_far(
    trials: Trials, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each trial takes a hundred seconds by its own account, and there is time for two."""
    now = 0.0
    tried = trials.__call__

    def timed(search: Any, groups: Sequence[ModuleGroup]) -> Trial:
        nonlocal now
        now += 100
        return tried(search, groups)

    monkeypatch.setattr(pipeline, "_now", lambda: now)
    monkeypatch.setattr(pipeline._Search, "_try", timed)
    assert tune("--budget", "4m") == 0
    assert len(trials.tried) == 2
    assert not figures().complete
    assert "The time was over" in capfd.readouterr().out
    assert Path(".tune-tiny-tuned").exists(), "a longer budget goes on from here"
    assert tune("--budget", "1h", "--force") == 0
    assert figures().complete
    assert len(trials.tried) == 5


def test_a_budget_too_short_for_one_plan(trials: Trials, capfd: pytest.CaptureFixture[str]) -> None:
    assert tune("--budget", "5s") == 2
    assert "--budget 5 s is too short" in capfd.readouterr().err
    assert not trials.tried


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "1h 3", "-3m"])
def test_what_is_no_time(text: str, trials: Trials, capfd: pytest.CaptureFixture[str]) -> None:
    assert tune("--budget", text) == 2
    assert "not a time like 30m" in capfd.readouterr().err


def refused(capfd: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    assert main(["tune", "tiny.yaml", *arguments]) == code
    error = capfd.readouterr().err
    assert 1 <= len(error.strip().splitlines()) <= 3, error
    return error


def test_mistakes(trials: Trials, capfd: pytest.CaptureFixture[str]) -> None:
    assert "name some with --clips" in refused(capfd, 2)
    assert "no target 'gpu'" in refused(capfd, 2, "-t", "gpu", "--clips", "calibration")
    assert "no clips at nowhere" in refused(capfd, 3, "--clips", "nowhere")
    assert "0.wav is among the recipe's data" in refused(capfd, 3, "--clips", "judging")
    assert "is the recipe itself" in refused(capfd, 2, "--output", "tiny.yaml")
    assert "name a .yaml file" in refused(capfd, 2, "--output", "plan.txt")
    shutil.copy("judging/1.wav", "calibration/2.wav")
    assert "2.wav is among the recipe's data" in refused(capfd, 3, "--clips", "calibration")
    Path("calibration/2.wav").write_bytes(b"RIFF")
    assert "2.wav" in refused(capfd, 3, "--clips", "calibration")
    Path("tiny-tuned.yaml").write_text("mine")
    assert "replace it with --force" in refused(capfd, 2, "--clips", "calibration")
    assert Path("tiny-tuned.yaml").read_text() == "mine"
    assert not trials.tried
