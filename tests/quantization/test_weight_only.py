"""weight-int4 and weight-int8: codes near the weights, packed, the same for every target."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes import SCHEMES
from exporter.quantization.schemes.weight_only import WeightOnly, unpacked
from exporter.quantization.weights import Weights

CASES = [
    (name, size, symmetric)
    for name in ("weight-int4", "weight-int8")
    for size in (32, 64, 128)
    for symmetric in (True, False)
]


def scheme_of(name: str, **parameters: Any) -> WeightOnly:
    scheme = SCHEMES[name].Scheme.model_validate(parameters)
    assert isinstance(scheme, WeightOnly)
    return scheme


def quantized(weight: Tensor, scheme: WeightOnly, rows: int = 5) -> dict[str, Tensor]:
    numbers = scheme.quantize(lambda: weight.split(rows), tuple(weight.shape))
    layout = scheme.layout(tuple(weight.shape), weight.dtype)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in numbers.items()} == layout
    return numbers


@pytest.mark.parametrize(("name", "size", "symmetric"), CASES)
def test_weights_are_within_half_a_step(name: str, size: int, symmetric: bool) -> None:
    """Whatever the groups hold: both signs, one, a single large weight; the last one is shorter."""
    scheme = scheme_of(name, group_size=size, symmetric=symmetric)
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 3 * size + 10, generator=source)
    weight[8:12] = weight[8:12].abs() + 0.1
    weight[12:16] = -weight[12:16].abs()
    weight[16:20, ::7] *= 50
    weight[20:] *= 1e-6
    numbers = quantized(weight, scheme)
    steps = numbers["scale"].abs().repeat_interleave(size, 1)[:, : weight.shape[1]]
    error = (scheme.dequantize(numbers) - weight).abs()
    assert (error <= steps / 2 * (1 + 1e-4)).all()
    assert torch.equal(numbers["scale"].bfloat16().float(), numbers["scale"])
    codes = unpacked(numbers["weight"], scheme.BITS)
    assert {int(codes.min()), int(codes.max())} == {0, 2**scheme.BITS - 1}


def test_more_bits_smaller_groups_and_zero_points_are_closer() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    errors = [
        float((scheme.dequantize(quantized(weight, scheme)) - weight).norm())
        for scheme in (
            scheme_of("weight-int4", group_size=128),
            scheme_of("weight-int4", group_size=64),
            scheme_of("weight-int4"),
            scheme_of("weight-int4", symmetric=False),
            scheme_of("weight-int8"),
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[-2] / 8


def test_codes_round_half_to_even_and_lie_low_nibble_first() -> None:
    weight = torch.zeros(1, 32)
    weight[0, :6] = torch.tensor([-8.0, 0.5, 1.5, 2.5, -0.5, 7.0])
    numbers = quantized(weight, scheme_of("weight-int4"))
    assert numbers["scale"].tolist() == [[1.0]]
    assert numbers["weight"][0, :4].tolist() == [8 << 4 | 0, 10 << 4 | 10, 15 << 4 | 8, 8 << 4 | 8]


def test_the_larger_side_has_the_code_more() -> None:
    """A positive peak makes the scale negative: 8 steps for it, and 7 for the other side."""
    weight = torch.zeros(2, 32)
    weight[0, :2], weight[1, :2] = torch.tensor([8.0, -7.0]), torch.tensor([7.0, -8.0])
    numbers = quantized(weight, scheme_of("weight-int4"))
    assert numbers["scale"].tolist() == [[-1.0], [1.0]]
    assert torch.equal(scheme_of("weight-int4").dequantize(numbers), weight)


@pytest.mark.parametrize(("name", "size", "symmetric"), CASES)
def test_a_group_of_zeros_stays_zero(name: str, size: int, symmetric: bool) -> None:
    weight = torch.zeros(3, 2 * size)
    weight[1, 0] = 1
    scheme = scheme_of(name, group_size=size, symmetric=symmetric)
    found = scheme.dequantize(quantized(weight, scheme))
    assert torch.equal(found == 0, weight == 0)
    assert abs(found[1, 0] - 1) <= 2**-7, "steps are those of bfloat16"


def test_blocks_of_rows_do_not_matter() -> None:
    weight = torch.randn(37, 96, generator=torch.Generator().manual_seed(2))
    scheme = scheme_of("weight-int4", symmetric=False)
    whole = quantized(weight, scheme, rows=37)
    for name, tensor in quantized(weight, scheme, rows=4).items():
        assert torch.equal(tensor, whole[name])


def test_4_bits_need_an_even_number_of_inputs() -> None:
    for width, fits in ((64, True), (65, False)):
        assert SCHEMES["weight-int4"].Scheme.applies_to(nn.Linear(width, 8)) == fits
        assert SCHEMES["weight-int8"].Scheme.applies_to(nn.Linear(width, 8))
    assert not SCHEMES["weight-int8"].Scheme.applies_to(nn.Conv1d(4, 4, 1))


def test_a_tied_head_is_quantized_from_the_table(tiny_whisper: Path) -> None:
    checkpoint, scheme = open_checkpoint(str(tiny_whisper)), scheme_of("weight-int4")
    weights = Weights(checkpoint, QuantizationPlan({"proj_out": scheme}), FAMILIES["whisper"].TIED)
    table = checkpoint.read("model.decoder.embed_tokens.weight").float()
    for leaf, wanted in quantized(table, scheme).items():
        assert weights.dtype(f"proj_out.{leaf}") == wanted.dtype
        assert torch.equal(weights.read(f"proj_out.{leaf}"), wanted)
    dequantized = weights.dequantized("proj_out")
    assert torch.equal(dequantized, scheme.dequantize(quantized(table, scheme)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_weight_that_is_no_number_is_refused(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, value: float, symmetric: bool
) -> None:
    checkpoint, name = open_checkpoint(str(tiny_whisper)), "model.decoder.layers.0.fc1"
    damaged = checkpoint.read(f"{name}.weight").float().clone()
    damaged[3, 5] = value
    monkeypatch.setattr(type(checkpoint), "blocks", lambda self, tensor: damaged.split(7))
    plan = QuantizationPlan({name: scheme_of("weight-int4", symmetric=symmetric)})
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        Weights(checkpoint, plan, {}).read(f"{name}.weight")
