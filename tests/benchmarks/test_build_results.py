"""What plans foretell, held against what was measured of every real shape."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperConfig

from benchmarks.random_checkpoints import SHAPES, Shape
from exporter.families.whisper import family as whisper
from exporter.targets import facts_of
from exporter.targets.cost import Work
from tests.support.kinds import ON_CPU

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "build_shapes.json"
MEASURED: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["shapes"]
VOCABULARY = 51766  # and a token for each language


def work(shape: Shape, measured: dict[str, Any], kind: str) -> Work:
    """What the shape gives a target to do, counted on its float16 checkpoint's tensors."""
    config = WhisperConfig(
        vocab_size=VOCABULARY + shape.languages,
        num_mel_bins=shape.mels,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
    )
    tensors = whisper.skeleton(
        json.loads(config.to_json_string(use_diff=False)), torch.float16
    ).state_dict()
    del tensors["proj_out.weight"]
    modules = len({name.rpartition(".")[0] for name in tensors})
    largest = max(tensor.nbytes for tensor in tensors.values())
    read = sum(tensor.nbytes for tensor in tensors.values())
    assert read == pytest.approx(measured["checkpoint_bytes"], rel=0.001)
    return Work(modules, largest, read, measured["ways"][kind]["size_bytes"])


@pytest.mark.parametrize("kind", ON_CPU)
@pytest.mark.parametrize("name", SHAPES)
def test_memory_and_time_are_foretold_within_30_percent(name: str, kind: str) -> None:
    measured = MEASURED[name]["ways"][kind]
    given, cost = work(SHAPES[name], MEASURED[name], kind), facts_of(kind).COSTS["cpu"]
    assert cost.peak_rss_bytes(given) == pytest.approx(measured["build_peak_bytes"], rel=0.3)
    assert cost.seconds(given) == pytest.approx(measured["build_s"], rel=0.3)


@pytest.mark.parametrize("kind", ON_CPU)
@pytest.mark.parametrize("name", SHAPES)
def test_each_tensor_lies_in_an_artifact_once(name: str, kind: str) -> None:
    """Within 5 % of the bytes of int8 and float tensors; what is more is code and graphs."""
    measured = MEASURED[name]
    assert measured["ways"][kind]["size_bytes"] <= 1.05 * measured["ideal_bytes"]
