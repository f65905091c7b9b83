"""Weights that are at the wrong place, of another model, or missing."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.damage.grounds import GROUNDS, Ground
from tests.damage.planting import Registry
from tests.damage.plants.scales import on, quantized
from tests.damage.tensors import Tensors
from tests.support.tiny import make_whisper

PLANTS = Registry()


def _swap(tensors: Tensors, one: str, other: str) -> None:
    first = tensors[one].clone()
    tensors[one].copy_(tensors[other])
    tensors[other].copy_(first)


def _swap_modules(tensors: Tensors, one: str, other: str) -> None:
    for leaf in ("weight", "scale", "bias"):
        if f"{one}.{leaf}" in tensors and f"{other}.{leaf}" in tensors:
            _swap(tensors, f"{one}.{leaf}", f"{other}.{leaf}")


def _swap_layers(tensors: Tensors, side: str, one: int, other: int) -> None:
    start = f"model.{side}.layers.{one}."
    for name in [name for name in tensors if name.startswith(start)]:
        _swap(tensors, name, name.replace(start, f"model.{side}.layers.{other}."))


def _transposed(tensors: Tensors, name: str) -> None:
    tensors[f"{name}.weight"].copy_(tensors[f"{name}.weight"].t().clone())


def _heads_permuted(tensors: Tensors, name: str, heads: int) -> None:
    """Rows interleaved as by the rotary exporters: [heads, half, 2] read as [heads, 2, half]."""
    for leaf in ("weight", "scale", "bias"):
        if f"{name}.{leaf}" in tensors:
            rows = tensors[f"{name}.{leaf}"]
            parts = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
            rows.copy_(parts.transpose(1, 2).reshape(rows.shape).clone())


def make_stale(ground: Ground) -> Path:
    """Make a checkpoint of the shape of a ground's and of another seed, once; return its folder."""
    folder = ground.folder / "stale"
    return folder if folder.exists() else make_whisper(folder, **{**ground.shape, "seed": 9})


def _stale(names: tuple[str, ...]) -> Any:
    """Tensors of a checkpoint of the same shape and another seed."""

    def edit(tensors: Tensors) -> None:
        floats = load_file(make_stale(GROUNDS["tiny"]) / "model.safetensors")
        for module in [m for m in quantized(tensors) if any(n in m for n in names)]:
            weight = floats[f"{module}.weight"]
            scale = weight.abs().amax(1) / 127
            tensors[f"{module}.weight"].copy_((weight / scale[:, None]).round())
            tensors[f"{module}.scale"].copy_(scale)

    return edit


def noisy(tensors: Tensors, share: float, inside: str = "") -> None:
    """All codes of a fine-tuning that nobody meant to export."""
    random = torch.Generator().manual_seed(0)
    for name in [name for name in quantized(tensors) if inside in name]:
        codes = tensors[f"{name}.weight"]
        added = share * 127 * torch.randn(codes.shape, generator=random)
        codes.copy_((codes.float() + added).round().clamp(-127, 127))


def _row(tensors: Tensors, name: str, row: int, value: float) -> None:
    tensors[name][row].fill_(value)


def _rolled(tensors: Tensors, name: str, by: int) -> None:
    tensors[name].copy_(tensors[name].roll(by, 0))


def _last_rows(tensors: Tensors, name: str, rows: int) -> None:
    """The last rows repeat the one before them, as of a table that was cut and padded."""
    table = tensors[name]
    table[-rows:] = table[-rows - 1]


def _zero_tail(tensors: Tensors, name: str, rows: int) -> None:
    tensors[name][-rows:] = 0


def _float16(tensors: Tensors, name: str) -> None:
    """A bias that overflowed in float16."""
    tensors[name][2] = float("inf")


def _time_tokens(tensors: Tensors) -> None:
    """Two timestamps' rows exchanged in the table of embedding and head."""
    for name in (_TABLE, _TABLE_SCALE):
        table = tensors[name]
        table[-9], table[-4] = table[-4].clone(), table[-9].clone()


def _zero_bias(tensors: Tensors, ends: str) -> None:
    for name in tensors:
        if name.endswith(ends):
            tensors[name].zero_()


_E0, _E1 = "model.encoder.layers.0", "model.encoder.layers.1"
_D0, _D1 = "model.decoder.layers.0", "model.decoder.layers.1"
_TABLE, _TABLE_SCALE = "proj_out.weight", "proj_out.scale"  # of the embedding, too
_PLACES = "model.decoder.embed_positions.weight"

add = PLANTS.add
add(
    "weight-zero",
    "tiny/torch-int8",
    "medium",
    "v_proj",
    on(lambda t: t[f"{_D0}.self_attn.v_proj.weight"].zero_()),
)
add(
    "weight-zero-cross",
    "tiny/onnx-int8",
    "severe",
    "encoder_attn",
    on(lambda t: t[f"{_D1}.encoder_attn.out_proj.weight"].zero_()),
)
add("row-zero", "tiny/aoti", "subtle", "fc1", on(lambda t: t[f"{_E1}.fc1.weight"][17].zero_()))
add(
    "row-zero-head",
    "demo/aoti",
    "latent",
    "proj_out",
    on(lambda t: t["proj_out.weight"][300].zero_()),
)
add("stale-encoder", "tiny/onnx-int8", "severe", "encoder", on(_stale(("encoder.layers",))))
add("stale-one-weight", "tiny/torch-int8", "medium", "fc2", on(_stale(("decoder.layers.1.fc2",))))
add("stale-cross-attention", "tiny/aoti", "severe", "encoder_attn", on(_stale(("encoder_attn",))))
add("noise-2-percent", "demo/torch-int8", "subtle", "weight", on(lambda t: noisy(t, 0.02)))
add("noise-10-percent", "tiny/aoti", "medium", "weight", on(lambda t: noisy(t, 0.1)))
add(
    "q-and-k-swapped",
    "tiny/onnx-int8",
    "severe",
    "q_proj|k_proj",
    on(lambda t: _swap_modules(t, f"{_E0}.self_attn.q_proj", f"{_E0}.self_attn.k_proj")),
)
add(
    "k-and-v-swapped",
    "tiny/aoti",
    "severe",
    "k_proj|v_proj",
    on(lambda t: _swap_modules(t, f"{_D0}.encoder_attn.k_proj", f"{_D0}.encoder_attn.v_proj")),
)
add(
    "layers-swapped-encoder",
    "tiny/torch-int8",
    "severe",
    "layers",
    on(lambda t: _swap_layers(t, "encoder", 0, 1)),
)
add(
    "layers-swapped-decoder",
    "tiny/torch-int8",
    "severe",
    "layers",
    on(lambda t: _swap_layers(t, "decoder", 0, 1)),
)
add(
    "transposed-square",
    "tiny/onnx-int8",
    "severe",
    "out_proj",
    on(lambda t: _transposed(t, f"{_E1}.self_attn.out_proj")),
)
add(
    "transposed-square-cross",
    "tiny/onnx-int8",
    "severe",
    "encoder_attn",
    on(lambda t: _transposed(t, f"{_D0}.encoder_attn.q_proj")),
)
add(
    "heads-interleaved",
    "tiny/aoti",
    "severe",
    "q_proj",
    on(lambda t: _heads_permuted(t, f"{_D0}.self_attn.q_proj", 2)),
)
add("bias-off", "tiny/torch-int8", "subtle", "bias", on(lambda t: t[f"{_D1}.fc1.bias"].add_(0.05)))
add(
    "biases-dropped-demo",
    "demo/torch-int8",
    "medium",
    "bias",
    on(lambda t: _zero_bias(t, "fc1.bias")),
)
add(
    "bias-of-q-in-v",
    "demo/onnx-int8",
    "medium",
    "bias",
    on(lambda t: _swap(t, f"{_E0}.self_attn.q_proj.bias", f"{_E0}.self_attn.v_proj.bias")),
)
add(
    "bias-overflowed",
    "tiny/torch-int8",
    "medium",
    "bias",
    on(lambda t: _float16(t, f"{_D0}.fc1.bias")),
)
add(
    "norm-weight-off",
    "tiny/aoti",
    "subtle",
    "layer_norm",
    on(lambda t: t[f"{_E0}.final_layer_norm.weight"].mul_(1.03)),
)
add(
    "norm-weight-unit-offset",
    "tiny/onnx-int8",
    "severe",
    "layer_norm",
    on(lambda t: t[f"{_D0}.self_attn_layer_norm.weight"].add_(1)),
)
add(
    "norm-bias-dropped",
    "demo/aoti",
    "medium",
    "layer_norm",
    on(lambda t: t["model.decoder.layer_norm.bias"].zero_()),
)
add(
    "norms-swapped",
    "demo/torch-int8",
    "medium",
    "layer_norm",
    on(
        lambda t: _swap(
            t, f"{_D0}.encoder_attn_layer_norm.weight", f"{_D0}.final_layer_norm.weight"
        )
    ),
)
add(
    "embedding-rolled",
    "tiny/torch-int8",
    "severe",
    "proj_out",
    on(lambda t: _rolled(t, _TABLE, 1)),
)
add(
    "positions-rolled",
    "tiny/onnx-int8",
    "severe",
    "embed_positions",
    on(lambda t: _rolled(t, _PLACES, 1)),
)
add(
    "positions-rolled-demo",
    "demo/torch-int8",
    "medium",
    "embed_positions",
    on(lambda t: _rolled(t, _PLACES, -1)),
)
add(
    "encoder-positions-rolled",
    "demo/aoti",
    "medium",
    "encoder.embed_positions",
    on(lambda t: _rolled(t, "model.encoder.embed_positions.weight", 2)),
)
add(
    "positions-repeated-at-the-end",
    "tiny/torch-int8",
    "latent",
    "embed_positions|positions",
    on(lambda t: _last_rows(t, _PLACES, 20)),
)
add(
    "positions-zero-at-the-end",
    "demo/onnx-int8",
    "latent",
    "embed_positions|positions",
    on(lambda t: _zero_tail(t, _PLACES, 60)),
)
add(
    "encoder-positions-cut",
    "tiny/aoti",
    "medium",
    "encoder.embed_positions",
    on(lambda t: _zero_tail(t, "model.encoder.embed_positions.weight", 90)),
)
add(
    "head-scaled-untied",
    "tiny/onnx-int8",
    "subtle",
    "proj_out",
    on(lambda t: t["proj_out.scale"].mul_(0.9)),
)
add(
    "head-rolled",
    "tiny/torch-int8",
    "severe",
    "proj_out",
    on(lambda t: [_rolled(t, f"proj_out.{leaf}", 1) for leaf in ("weight", "scale")]),
)
add(
    "head-tail-zero",
    "tiny/torch-int8",
    "medium",
    "proj_out",
    on(lambda t: t["proj_out.weight"][-60:].zero_()),
)
add(
    "conv-reversed",
    "tiny/onnx-int8",
    "medium",
    "conv1",
    # Codes [out, taps * in], a tap after the other.
    on(
        lambda t: t["model.encoder.conv1.weight"].copy_(
            t["model.encoder.conv1.weight"].unflatten(1, (3, -1)).flip(1).flatten(1)
        )
    ),
)
add(
    "conv-bias-of-the-other",
    "demo/aoti",
    "medium",
    "conv",
    on(lambda t: _swap(t, "model.encoder.conv1.bias", "model.encoder.conv2.bias")),
)
add(
    "conv-in-4-bits",
    "demo/torch-int8",
    "subtle",
    "conv2",
    on(
        lambda t: t["model.encoder.conv2.weight"].copy_(
            (t["model.encoder.conv2.weight"].float() / 16).round().clamp(-7, 7) * 16
        )
    ),
)
add(
    "nan-in-a-rare-embedding",
    "tiny/aoti",
    "latent",
    "proj_out",
    on(lambda t: _row(t, _TABLE_SCALE, 150, float("nan"))),
)
add(
    "infinity-in-a-rare-embedding",
    "tiny/onnx-int8",
    "latent",
    "proj_out",
    on(lambda t: _row(t, _TABLE_SCALE, 151, float("inf"))),
)
add(
    "embedding-of-a-language-zero",
    "tiny/torch-int8",
    "latent",
    "proj_out",
    on(lambda t: _row(t, _TABLE, -208, 0.0)),
)
add("timestamps-swapped", "tiny/torch-int8", "latent", "proj_out", on(_time_tokens))
add(
    "embedding-in-4-bits",
    "tiny/aoti",
    "subtle",
    "proj_out",
    on(lambda t: t[_TABLE].copy_((t[_TABLE].float() / 18).round() * 18)),
)
