"""The int8 numbers: close to the weights, the same for every target, streamed and complete."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import RecipeError
from exporter.families import FAMILIES
from exporter.formats.tensor_io import write_safetensors
from exporter.quantization.int8 import quantize
from exporter.quantization.plan import Plan, QuantizationScheme, plan_linears
from exporter.quantization.weights import Weights


def quantized(weight: Tensor, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    return quantize(lambda: weight.split(5), tuple(weight.shape), scheme)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_are_within_half_a_step(bits: int, per_channel: bool) -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    scheme = QuantizationScheme(per_channel=per_channel, bits=bits)
    codes, steps = quantized(weight, scheme)
    assert codes.dtype == torch.int8
    assert steps.shape == ((16,) if per_channel else (1,))
    assert codes.abs().amax() == scheme.limit == 2 ** (bits - 1) - 1
    error = (codes * steps[:, None] - weight).abs()
    assert (error <= steps[:, None] / 2 * (1 + 1e-5)).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 4)
    weight[1, 0] = 1
    assert quantized(weight, QuantizationScheme())[0].tolist() == [[0, 0, 0, 0], [127, 0, 0, 0]]


def test_patterns_choose_linear_modules() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Conv1d(2, 2, 1)})
    assert set(plan_linears(model).modules) == {"a", "b"}
    assert set(plan_linears(model, exclude=["a"]).modules) == {"b"}
    with pytest.raises(RecipeError, match=r"'c' matches no linear module; names look like a"):
        plan_linears(model, exclude=["c"])


def test_tied_weights_are_read_once_stored(tiny_whisper: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_whisper))
    tied = FAMILIES["whisper"].TIED
    embedding = checkpoint.read("model.decoder.embed_tokens.weight")
    weights = Weights(checkpoint, Plan({"proj_out": QuantizationScheme()}), tied)
    codes, scales = quantized(embedding, QuantizationScheme())
    assert torch.equal(weights.read("proj_out.scale"), scales)
    assert torch.equal(weights.read("proj_out.weight"), codes)
    assert torch.equal(Weights(checkpoint, Plan(), tied).read("proj_out.weight"), embedding)


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
