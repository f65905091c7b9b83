"""static-int8: its arithmetic, and its calibration in a recipe, with every mistake at its line."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from exporter import recipe
from exporter.build.resolve import Planned, resolve
from exporter.errors import DataError, RecipeError
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.static_int8 import Scheme as StaticInt8
from exporter.system.progress import silent

RANGES = [(-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0), (0.5, 4.0), (-3.0, -1.0), (0.0, 0.0), (-1e-8, 1e8)]


@pytest.mark.parametrize("ends", RANGES)
def test_inputs_are_rounded_to_codes_of_the_range_with_zero_in_it(
    ends: tuple[float, float],
) -> None:
    scheme = StaticInt8(low=ends[0], high=ends[1])
    low, high, step = min(ends[0], 0.0), max(ends[1], 0.0), scheme.input_scale
    assert 0 <= scheme.input_zero_point <= 255
    assert not scheme.rounded(torch.zeros(3)).any()
    states = torch.linspace(low, high, 1000)
    assert (scheme.rounded(states) - states).abs().max() <= 1.01 * step / 2 + 1e-6 * step
    beyond = scheme.rounded(torch.tensor([low - 100 * step, high + 100 * step]))
    assert (beyond - torch.tensor([low, high])).abs().max() <= (1.01 if high > low else 300) * step


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_are_within_half_a_step_of_their_row(bits: int) -> None:
    weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    scheme = StaticInt8.model_validate({"bits": bits, "low": -1, "high": 1})
    tensors = scheme.quantize(lambda: weight.split(2), (6, 5, 3))
    layout = scheme.layout((6, 5, 3), torch.float32)
    assert {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()} == layout
    assert int(tensors["weight"].abs().max()) == 2 ** (bits - 1) - 1
    errors = (scheme.dequantize(tensors) - weight).abs().flatten(1).amax(1)
    assert (errors <= 0.501 * tensors["scale"]).all()


def test_seven_bits_of_weights_leave_room_for_two_products_in_16_bits() -> None:
    """What CPUs without VNNI add before they widen: two products of u8 and s8."""
    largest = 255 * (2 ** (7 - 1) - 1)
    assert 2 * largest <= 2**15 - 1 < 2 * 255 * 127


def test_ranges_are_added_to_a_plan_and_come_back() -> None:
    plan = QuantizationPlan({"a": StaticInt8(), "b": StaticInt8(bits=7)})
    assert plan.calibrated == ("a", "b")
    ranged = plan.with_ranges({"a": (-1.5, 2.0), "b": (0.0, 0.1)})
    assert QuantizationPlan.from_data(ranged.as_data()) == ranged
    assert plan.modules["a"] == StaticInt8()


RECIPE = """\
name: tiny
checkpoint: {checkpoint}
quantization: {quantization}
targets:
  - kind: torch-int8
  - {{kind: onnx-int8{target}}}
decoding: {{language: en, task: transcribe}}
data: {{clips: judged}}
"""
STATIC = "modules: {'*.fc1': static-int8}"


def write(folder: Path, checkpoint: Path, quantization: str, target: str = "") -> Path:
    for name, count in (("judged", 1), ("other", 3)):
        clips = folder / name
        clips.mkdir(exist_ok=True)
        rows = []
        for n in range(count):
            soundfile.write(clips / f"{n}.wav", 0.1 * np.sin(np.arange(8000) / (n + 2)), 16_000)
            rows.append(f'{{"audio": "{n}.wav", "text": "red"}}\n')
        (clips / "manifest.jsonl").write_text("".join(rows))
    path = folder / "tiny.yaml"
    path.write_text(
        RECIPE.format(checkpoint=checkpoint, quantization=f"{{{quantization}}}", target=target)
    )
    return path


def planned(path: Path) -> list[Planned]:
    return resolve(recipe.read(path), path.parent / "out", None, (), silent)


OTHER = "calibration: {clips: other}"


@pytest.mark.parametrize(
    ("quantization", "target", "message"),
    [
        (STATIC, "", r":3:\d+: quantization: `static-int8` needs recordings .* add `calibration"),
        (OTHER, "", r":3:\d+: quantization.calibration: no module is `static-int8`"),
        (f"{STATIC}, calibration: {{clips: other, method: magic}}", "", ":3:.*method"),
        (f"{STATIC}, calibration: {{clips: other, count: 0}}", "", ":3:.*count"),
        (f"{STATIC}, calibration: {{count: 3}}", "", ":3:.*clips"),
        (f"{STATIC}, calibration: {{clips: absent}}", "", "clips: there is nothing at "),
        (
            f"{STATIC}, calibration: {{clips: other, method: mse, percentile: 99}}",
            "",
            "`percentile` belongs to the method of this name, not to mse",
        ),
        (
            f"modules: {{'*.fc1': {{scheme: static-int8, low: -1}}}}, {OTHER}",
            "",
            r":3:.*low: `low` is calibrated by the build: leave it out",
        ),
        (
            f"{STATIC}, {OTHER}",
            f", quantization: {{{OTHER}}}",
            r":6:\d+: targets.1.quantization.calibration: no module is `static-int8`",
        ),
    ],
)
def test_mistakes_cite_their_line(
    tiny_whisper: Path, tmp_path: Path, quantization: str, target: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        planned(write(tmp_path, tiny_whisper, quantization, target))
    assert len(str(caught.value).splitlines()) <= 3


def test_targets_share_a_calibration_or_have_their_own(tiny_whisper: Path, tmp_path: Path) -> None:
    shared = f"{STATIC}, calibration: {{clips: other, count: 2}}"
    one, other = planned(write(tmp_path, tiny_whisper, shared))
    assert one.calibration == other.calibration
    assert one.calibration is not None
    assert (len(one.calibration.paths), str(one.calibration)) == (2, "mse on 2 clips")
    assert one.prediction.seconds > 8, "it runs for the first"
    before = one.key("weights")
    own = ", quantization: {default: static-int8, calibration: {clips: other, method: minmax}}"
    one, other = planned(write(tmp_path, tiny_whisper, shared, own))
    assert one.key("weights") == before
    assert other.calibration is not None
    assert str(other.calibration) == "minmax on 3 clips"
    inherits = ", quantization: {default: static-int8}"
    one, other = planned(write(tmp_path, tiny_whisper, shared, inherits))
    assert one.calibration == other.calibration
    one, other = planned(write(tmp_path, tiny_whisper, shared.replace("2", "3")))
    assert one.key("weights") != before


def test_recordings_that_judge_too_are_warned_of(
    tiny_whisper: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        planned(write(tmp_path, tiny_whisper, f"{STATIC}, calibration: {{clips: judged}}"))
    assert "calibration.clips are those of `data`" in caplog.text


def test_a_folder_without_recordings(tiny_whisper: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        planned(write(tmp_path, tiny_whisper, f"{STATIC}, calibration: {{clips: empty}}"))


def test_it_applies_to_what_is_a_product() -> None:
    assert StaticInt8.applies_to(nn.Linear(2, 2))
    assert StaticInt8.applies_to(nn.Conv1d(2, 2, 3))
    assert not StaticInt8.applies_to(nn.Embedding(2, 2))
