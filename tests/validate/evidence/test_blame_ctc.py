"""The same on a model without a decoder, and its torch artifact without rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.artifact import store
from exporter.families import FAMILIES
from exporter.recipe import Decoding
from exporter.recognition.load import load_original
from exporter.system.progress import silent
from exporter.targets import inspection_of
from exporter.validate.evidence.blame import effects_of
from exporter.validate.measure.model import ModelSpec
from tests.support.built import build_tiny
from tests.support.fragile import make_fragile
from tests.support.tiny_ctc import make_ctc
from tests.tune.conftest import write_clips

CALIBRATED = """\
quantization:
  modules: {"*.feature_extractor.*": static-int8, "*.feature_projection.*": static-int8}
  calibration: {clips: calibration, count: 2, method: minmax}
"""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny checkpoint with outliers in one block, and its artifact, partly static."""
    folder = tmp_path_factory.mktemp("fragile-ctc")
    plain = make_ctc(folder / "plain", "wav2vec2-layer-norm")
    fed, blocks = "feed_forward.intermediate_dense", ["wav2vec2.encoder.layers.1"]
    checkpoint = make_fragile(plain, folder / "checkpoint", blocks, 4096, fed)
    write_clips(folder / "calibration", 2, 3)
    built = build_tiny(folder, checkpoint, "[{kind: torch-int8}]", CALIBRATED)
    return checkpoint, built["torch-int8"]


def test_the_fragile_group_does_the_most_harm(
    fragile: tuple[Path, Path], tmp_path: Path, steps_here: None
) -> None:
    checkpoint, artifact = fragile
    write_clips(tmp_path / "clips", 2, 5)
    original = ModelSpec(model=checkpoint, original=True, threads=1, decoding=Decoding())
    clips = sorted((tmp_path / "clips").glob("*.wav"))
    found = effects_of(original, store.read_manifest(artifact), clips, "tiny", silent)
    assert {effect.name for effect in found} == {
        *("feature_extractor conv layer 1, conv", "feature_extractor conv layer 2, conv"),
        "feature_projection, projection",
        *("encoder layer 0, attention", "encoder layer 0, feed-forward"),
        *("encoder layer 1, attention", "encoder layer 1, feed-forward"),
        "head",
    }
    worst = max(found, key=lambda effect: effect.kl_mean)
    assert worst.name == "encoder layer 1, feed-forward"
    assert all(effect.kl_mean > 0 and 0 <= effect.top1 <= 1 for effect in found)


def test_torch_opens_quantized_convolutions_without_rounding(fragile: tuple[Path, Path]) -> None:
    checkpoint, artifact = fragile
    manifest, original = store.read_manifest(artifact), load_original(checkpoint)
    family = FAMILIES[manifest.family]
    opened = inspection_of("torch-int8").unrounded(artifact, manifest, family, 1)
    assert opened is not None
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    heard = family.forcing.window_features(original.processor, [sound])
    with torch.inference_mode():
        theirs, ours = (
            family.forcing.forced(model, heard, torch.zeros(1, 1, dtype=torch.int64), [1]).logits
            for model in (original.model, opened.model)
        )
    assert (ours - theirs).std() < 0.05 * theirs.std(), "weights alone are rounded"
