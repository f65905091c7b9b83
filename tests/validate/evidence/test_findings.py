"""The checks of what was found beyond the corpus: which fail, and what they say."""

from typing import Any

import pytest

from exporter.artifact.report import Check
from exporter.validate.evidence.results import (
    Consistency,
    Findings,
    ModuleDistance,
    Resources,
    Steps,
)
from exporter.validate.gate.evidence import (
    STEP_LIMIT,
    Evidence,
    agreement_of,
    checks_of,
    faithfulness_of,
)

NOISE, EXACT = 0.02, 5e-5
MODULES = (
    "model.encoder.layer_norm",
    "model.decoder.layers.0.self_attn.k_proj",
    "model.decoder.layers.1.encoder_attn.v_proj",
    "model.decoder.layers.1.final_layer_norm",
)


def steps(name: str, distance: float = NOISE, exact: float = EXACT, **changes: Any) -> Steps:
    count = changes.pop("count", 8)
    clip = changes.pop("clip", True)
    told = {"kl_original": (1e-4,) * count, "top1_original": (True,) * count} if clip else {}
    values = {"distance": (distance,) * count, "exact": (exact,) * count, **told, **changes}
    return Steps(name=name, clip=clip, **values)


def findings(**changes: Any) -> Findings:
    """What an honest artifact gives: twice as much noise in two asked ways is still rounding."""
    values: dict[str, Any] = {
        "steps": (
            steps("a.wav"),
            steps("b.wav", 1.2 * NOISE),
            steps("silence", clip=False),
            steps("all positions of the decoder", clip=False, count=40),
        ),
        "noise": NOISE,
        "exact_noise": EXACT,
        "modules": tuple(ModuleDistance(module=m, distance=0.01, noise=0.01) for m in MODULES),
        "exact_modules": tuple(
            ModuleDistance(module=m, distance=1e-5, noise=1e-5) for m in MODULES
        ),
        "features": {"a.wav": 0.0, "silence": 0.0},
        "consistency": (
            Consistency(check="repeat", what="the same input twice", distance=0.0, noise=NOISE),
            Consistency(check="batches", what="a batch of 5 clips", distance=NOISE, noise=NOISE),
        ),
        "resources": Resources(
            growth_bytes=1 << 20, calls=12, early_s=0.002, late_s=0.004,
            windows_s={"a.wav": 0.02, "b.wav": 0.02, "silence": 0.021},
        ),
        "seconds": 1.0,
    }  # fmt: skip
    return Findings(**(values | changes))


def judged(found: Findings, *weights: str, peak: int = 10**9) -> dict[str, Check]:
    checks = checks_of(Evidence(found, weights, peak, 10**9))
    assert all(check.advice for check in checks if not check.passed)
    return {check.name: check for check in checks}


def failed(found: Findings, *weights: str, **how: int) -> list[str]:
    return [name for name, check in judged(found, *weights, **how).items() if not check.passed]


def replaced(name: str, **changes: Any) -> Findings:
    """The findings with one input decoded otherwise."""
    told = [
        steps(each.name, clip=each.clip, count=len(each.distance), **changes)
        if each.name == name
        else each
        for each in findings().steps
    ]
    return findings(steps=tuple(told))


def test_an_honest_artifact_passes_every_check() -> None:
    assert failed(findings()) == []
    summary = faithfulness_of(findings())
    assert summary.distance / summary.noise == pytest.approx(1.1, abs=0.02)
    assert len(summary.by_step) == 8
    agreement = agreement_of(findings())
    assert (agreement.clips, agreement.steps, agreement.top1) == (2, 16, 1.0)
    assert agreement.kl_mean == pytest.approx(1e-4)


def test_a_weight_that_differs_is_named() -> None:
    told = "model.decoder.layers.1.fc1.scale in model.safetensors is 2 times what the checkpoint "
    check = judged(findings(), told + "gives")["weights"]
    assert check.passed is False
    assert told in check.sentence


@pytest.mark.parametrize("name", ["a.wav", "silence", "all positions of the decoder"])
@pytest.mark.parametrize("mode", ["distance", "exact"])
def test_each_input_has_its_check(name: str, mode: str) -> None:
    """With rounding by more than it explains, without by far less."""
    beyond = {"distance": 3.5 * NOISE} if mode == "distance" else {"exact": 0.5 * NOISE}
    expected = {"a.wav": "faithful", "silence": "inputs"}.get(name, "positions")
    check = judged(replaced(name, **beyond))
    assert [n for n, c in check.items() if not c.passed] == [expected]
    assert name in check[expected].sentence
    assert ("without rounding" in check[expected].sentence) == (mode == "exact")


def test_a_single_step_is_enough() -> None:
    wrong = (NOISE,) * 5 + (1.1 * STEP_LIMIT * NOISE,) + (NOISE,) * 2
    told = [steps("a.wav").model_copy(update={"distance": wrong}), *findings().steps[1:]]
    sentence = judged(findings(steps=tuple(told)))["faithful"].sentence
    assert "a.wav, step 6 of 8" in sentence


@pytest.mark.parametrize(("at", "cause"), [(0, "feed-forward"), (1, "embeddings"), (3, "mask")])
def test_the_first_module_that_differs_is_named(at: int, cause: str) -> None:
    exact = [
        ModuleDistance(module=m, distance=0.1 if place >= at else 1e-5, noise=1e-5)
        for place, m in enumerate(MODULES)
    ]
    found = replaced("a.wav", exact=0.1)
    check = judged(found.model_copy(update={"exact_modules": tuple(exact)}))["faithful"]
    assert f"the first module that differs is {MODULES[at]}." in check.sentence
    assert cause in check.advice


def test_nan_and_crashes_are_told() -> None:
    lost = replaced("silence", finite=False, first=2, distance=1e9)
    assert "silence are NaN or infinite from step 2 on" in judged(lost)["inputs"].sentence
    crash = replaced("silence", error="IntegrityError: x cannot be run", distance=1e9)
    assert "It fails on silence: IntegrityError: x" in judged(crash)["inputs"].sentence


def test_other_ways_of_asking_have_checks() -> None:
    far = Consistency(check="batches", what="a batch of 5 clips", distance=0.5, noise=NOISE)
    other = Consistency(check="graphs", what="other", distance=1e9, noise=NOISE, error="no graph")
    found = judged(findings(consistency=(far, other)))
    assert "With a batch of 5 clips, the logits lie" in found["batches"].sentence
    assert found["graphs"].sentence == "Other cannot be decoded: no graph."
    assert "repeat" not in found


def test_resources_have_checks() -> None:
    used = findings().resources
    assert used is not None
    grown = used.model_copy(update={"growth_bytes": 1 << 30})
    assert failed(findings(resources=grown)) == ["memory"]
    assert failed(findings(), peak=3 * 10**9) == ["memory"]
    slow = used.model_copy(update={"windows_s": {"a": 0.02, "b": 0.02, "silence": 0.5}})
    assert failed(findings(resources=slow)) == ["call times"]
    longer = slow.model_copy(update={"lengths": {"a": 100, "b": 101, "silence": 900}})
    assert failed(findings(resources=longer)) == []
    alike = slow.model_copy(update={"lengths": {"a": 100, "b": 900, "silence": 901}})
    assert failed(findings(resources=alike)) == ["call times"]
    late = used.model_copy(update={"late_s": 0.2})
    assert failed(findings(resources=late)) == ["call times"]
    assert failed(findings(features={"a.wav": 0.3})) == ["features"]
