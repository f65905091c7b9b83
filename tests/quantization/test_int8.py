"""The int8 numbers: close to the weights, the same for every target, streamed and complete."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.formats.tensor_io import write_safetensors
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.weights import Weights
from tests.support.plans import FLOAT, INT8


def quantized(weight: Tensor, scheme: DynamicInt8 = INT8) -> tuple[Tensor, Tensor]:
    numbers = scheme.quantize(lambda: weight.split(5), tuple(weight.shape))
    layout = scheme.layout(tuple(weight.shape), weight.dtype)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in numbers.items()} == layout
    return numbers["weight"], numbers["scale"]


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_are_within_half_a_step(bits: Literal[7, 8], per_channel: bool) -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    codes, steps = quantized(weight, DynamicInt8(per_channel=per_channel, bits=bits))
    assert codes.dtype == torch.int8
    assert steps.shape == ((16,) if per_channel else (1,))
    assert codes.abs().amax() == 2 ** (bits - 1) - 1
    error = (codes * steps[:, None] - weight).abs()
    assert (error <= steps[:, None] / 2 * (1 + 1e-5)).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 4)
    weight[1, 0] = 1
    assert quantized(weight)[0].tolist() == [[0, 0, 0, 0], [127, 0, 0, 0]]


def test_tied_weights_are_read_once_stored(tiny_whisper: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_whisper))
    tied = FAMILIES["whisper"].TIED
    embedding = checkpoint.read("model.decoder.embed_tokens.weight")
    weights = Weights(checkpoint, QuantizationPlan({"proj_out": INT8}), tied)
    codes, scales = quantized(embedding)
    assert weights.dtype("proj_out.weight") == torch.int8
    assert weights.dtype("proj_out.scale") == torch.float32
    assert torch.equal(weights.read("proj_out.scale"), scales)
    assert torch.equal(weights.read("proj_out.weight"), codes)
    for plan in (QuantizationPlan(), QuantizationPlan({"proj_out": FLOAT})):
        assert torch.equal(Weights(checkpoint, plan, tied).read("proj_out.weight"), embedding)


def test_streamed_safetensors_are_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "codes": torch.arange(-6, 6, dtype=torch.int8).reshape(3, 4),
        "scale": torch.rand(3),
        "half": torch.rand(5).half(),
        "brain": torch.rand(2, 2).bfloat16(),
        "empty": torch.zeros(0, 4),
    }
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    told: list[float | None] = []
    path = tmp_path / "x.safetensors"
    write_safetensors(path, layout, tensors.__getitem__, lambda _, done: told.append(done))
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert told[-1] == 1.0
