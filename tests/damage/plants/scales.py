"""Int8 codes and their scales: what quantizers and their ports get wrong."""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.damage.planting import Change, Registry
from tests.damage.tensors import Tensors, tensors_of

PLANTS = Registry()
_ENC, _DEC = "model.encoder.layers.{}.{}", "model.decoder.layers.{}.{}"
_Q, _FC1, _OUT = _ENC.format(1, "self_attn.q_proj"), _DEC.format(1, "fc1"), "self_attn.out_proj"


def on(edit: Callable[[Tensors], object]) -> Change:
    """Return a change of an artifact's tensors."""

    def change(folder: Path) -> None:
        with tensors_of(folder) as tensors:
            edit(tensors)

    return change


def _times(name: str, factor: float) -> Change:
    return on(lambda t: t[f"{name}.scale"].mul_(factor))


def _all_scales(factor: float) -> Change:
    return on(lambda t: [t[name].mul_(factor) for name in t if name.endswith(".scale")])


def _rolled(name: str) -> Change:
    return on(lambda t: t[f"{name}.scale"].copy_(t[f"{name}.scale"].roll(1)))


def _one_scale(name: str) -> Change:
    """As of a quantizer per tensor whose one scale was repeated, with codes per row."""
    return on(lambda t: t[f"{name}.scale"].fill_(float(t[f"{name}.scale"].max())))


def _four_bits(tensors: Tensors, names: list[str]) -> None:
    """Round codes to 15 levels: what a 4-bit export holds, in the form of int8."""
    for name in names:
        codes = tensors[f"{name}.weight"].float()
        tensors[f"{name}.weight"].copy_((codes / 18.0).round().clamp(-7, 7) * 18)


def quantized(tensors: Tensors) -> list[str]:
    """Return the names of the modules whose codes are stored."""
    return [name.removesuffix(".scale") for name in tensors if name.endswith(".scale")]


def _sevenbit_codes(name: str) -> Change:
    """Codes of 7 bits under scales of 8: everything is half as large."""
    return on(lambda t: t[f"{name}.weight"].copy_((t[f"{name}.weight"].float() / 2).round()))


def _clipped(name: str, most: int) -> Change:
    return on(lambda t: t[f"{name}.weight"].clamp_(-most, most))


def _one_bit(tensors: Tensors, name: str, row: int, column: int, bit: int) -> None:
    codes = tensors[f"{name}.weight"].view(torch.uint8)
    codes[row, column] = int(codes[row, column]) ^ (1 << bit)


def _truncated(tensors: Tensors) -> None:
    """Codes as of a quantizer that truncates where it should round: all a bit too small."""
    for name in quantized(tensors):
        codes = tensors[f"{name}.weight"]
        codes.sub_(codes.sign())


def _wrapped(tensors: Tensors, name: str) -> None:
    """Codes as of a quantizer without clamping: what should be 127 wraps to a negative number."""
    codes = tensors[f"{name}.weight"]
    codes[codes == 127] = -128


def _unsigned(tensors: Tensors, name: str) -> None:
    """Codes with the zero point of unsigned weights, read as signed ones."""
    codes = tensors[f"{name}.weight"]
    codes.copy_((codes.short() + 128).to(torch.uint8).view(torch.int8))


add = PLANTS.add
add("scale-doubled-q", "tiny/onnx-int8", "medium", "q_proj.scale|q_proj", _times(_Q, 2))
add("scale-doubled-fc1", "demo/torch-int8", "medium", "fc1.scale|fc1", _times(_FC1, 2))
add("scale-doubled-out", "tiny/aoti", "medium", "out_proj", _times(_DEC.format(0, _OUT), 2))
add(
    "scale-halved-v",
    "demo/aoti",
    "medium",
    "v_proj",
    _times(_ENC.format(2, "self_attn.v_proj"), 0.5),
)
add("scale-tenfold-fc2", "demo/onnx-int8", "severe", "fc2", _times(_ENC.format(0, "fc2"), 10))
add(
    "scale-inverse",
    "tiny/torch-int8",
    "severe",
    "fc2",
    on(lambda t: t["model.encoder.layers.0.fc2.scale"].reciprocal_()),
)
add("scales-up-1-percent", "tiny/torch-int8", "subtle", "scale", _all_scales(1.01))
add("scales-up-1-percent-onnx", "demo/onnx-int8", "subtle", "scale", _all_scales(1.01))
add("scales-128-for-127", "tiny/aoti", "subtle", "scale", _all_scales(127 / 128))
add("one-scale-up-5-percent", "tiny/onnx-avx2", "subtle", "fc1", _times(_FC1, 1.05))
add("scales-off-by-a-row", "tiny/aoti", "medium", "fc1.scale|fc1", _rolled(_FC1))
add("scales-off-by-a-row-head", "demo/torch-int8", "medium", "proj_out", _rolled("proj_out"))
add(
    "scales-off-by-a-row-k",
    "tiny/onnx-int8",
    "medium",
    "k_proj",
    _rolled(_DEC.format(0, "encoder_attn.k_proj")),
)
add(
    "scales-reversed",
    "tiny/torch-int8",
    "medium",
    "v_proj",
    on(
        lambda t: t[_DEC.format(1, "self_attn.v_proj.scale")].copy_(
            t[_DEC.format(1, "self_attn.v_proj.scale")].flip(0)
        )
    ),
)
add(
    "per-tensor-scale-repeated",
    "tiny/onnx-int8",
    "medium",
    "fc2",
    _one_scale(_DEC.format(1, "fc2")),
)
add(
    "scales-through-float16",
    "demo/aoti",
    "subtle",
    "scale",
    on(lambda t: [t[n].copy_(t[n].half().float()) for n in t if n.endswith(".scale")]),
)
add(
    "scales-through-bfloat16",
    "tiny/torch-int8",
    "subtle",
    "scale",
    on(lambda t: [t[n].copy_(t[n].bfloat16().float()) for n in t if n.endswith(".scale")]),
)
add(
    "scale-denormal",
    "tiny/onnx-int8",
    "severe",
    "scale",
    on(lambda t: t[_DEC.format(0, "fc2.scale")].fill_(1e-41)),
)
add(
    "scale-negative-row",
    "tiny/aoti",
    "subtle",
    "q_proj",
    on(lambda t: t[f"{_Q}.scale"][3:4].neg_()),
)
add(
    "scale-nan-of-a-rare-word",
    "tiny/torch-int8",
    "severe",
    "proj_out",
    on(lambda t: t["proj_out.scale"][200].fill_(float("nan"))),
)
add(
    "scale-infinite",
    "tiny/onnx-int8",
    "medium",
    "scale",
    on(lambda t: t[_ENC.format(0, "fc1.scale")][0].fill_(float("inf"))),
)
add(
    "codes-4-bit",
    "demo/torch-int8",
    "medium",
    "weight|bits",
    on(lambda t: _four_bits(t, quantized(t))),
)
add(
    "codes-4-bit-onnx",
    "tiny/onnx-int8",
    "medium",
    "weight|bits",
    on(lambda t: _four_bits(t, quantized(t))),
)
add(
    "codes-4-bit-decoder-ffn",
    "demo/aoti",
    "subtle",
    "fc1|fc2",
    on(lambda t: _four_bits(t, [n for n in quantized(t) if "decoder" in n and ".fc" in n])),
)
add(
    "codes-7-bit-scales-8",
    "tiny/onnx-int8",
    "medium",
    "fc1",
    _sevenbit_codes(_ENC.format(0, "fc1")),
)
add("codes-clipped-at-64", "tiny/aoti", "subtle", "fc1", _clipped(_FC1, 64))
add(
    "codes-clipped-at-100-everywhere",
    "tiny/torch-int8",
    "subtle",
    "weight",
    on(lambda t: [t[f"{n}.weight"].clamp_(-100, 100) for n in quantized(t)]),
)
add("codes-truncated", "tiny/torch-int8", "subtle", "weight", on(_truncated))
add(
    "codes-wrapped",
    "tiny/onnx-int8",
    "medium",
    "k_proj",
    on(lambda t: _wrapped(t, _DEC.format(0, "self_attn.k_proj"))),
)
add(
    "codes-unsigned-read-as-signed",
    "tiny/onnx-avx2",
    "severe",
    "out_proj",
    on(lambda t: _unsigned(t, _ENC.format(0, _OUT))),
)
add(
    "code-one-high-bit",
    "tiny/aoti",
    "subtle",
    "fc2",
    on(lambda t: _one_bit(t, _DEC.format(0, "fc2"), 5, 9, 6)),
)
add(
    "code-one-low-bit",
    "demo/onnx-int8",
    "subtle",
    "q_proj",
    on(lambda t: _one_bit(t, _DEC.format(1, "self_attn.q_proj"), 11, 3, 1)),
)
add(
    "sign-flipped-row",
    "tiny/torch-int8",
    "subtle",
    "fc1",
    on(lambda t: t[f"{_FC1}.weight"][7].neg_()),
)
add(
    "sign-flipped-weight",
    "tiny/onnx-int8",
    "severe",
    "out_proj",
    on(lambda t: t[_DEC.format(0, "self_attn.out_proj.weight")].neg_()),
)
