"""Damage in CTC models: blank and letters, samples, norms, positions, the head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.damage.onnx_graphs import Edited
from tests.damage.planting import Change, Registry
from tests.damage.plants.companions import edit
from tests.damage.plants.graphs import on as on_graph
from tests.damage.plants.native import compiled
from tests.damage.plants.scales import on
from tests.damage.tensors import Tensors

PLANTS = Registry()
_VOCABULARY, _SETTINGS, _CONFIG = "vocab.json", "tokenizer_config.json", "config.json"
_SAMPLES = "preprocessor_config.json"
_GROUP_NORM = "wav2vec2.feature_extractor.conv_layers.0.layer_norm"
_POSITIONS = "wav2vec2.encoder.pos_conv_embed.conv"
_LAYER = "wav2vec2.encoder.layers.{}.{}"


def _exchanged(one: str, other: str) -> Change:
    def swap(words: dict[str, Any]) -> None:
        words[one], words[other] = words[other], words[one]

    return edit(_VOCABULARY, swap)


def _set(name: str, **values: Any) -> Change:
    return edit(name, lambda stored: stored.update(values))


def _blank_everywhere(folder: Path) -> None:
    """Blank and a letter exchanged in tokenizer and config, so that both agree."""
    _exchanged("<pad>", "e")(folder)
    _set(_CONFIG, pad_token_id=9)(folder)


def _leaf(name: str, change: Callable[[Tensor], object]) -> Change:
    return on(lambda t: change(t[name]))


def _head(change: Callable[[Tensor], Tensor]) -> Change:
    """Change the rows of the head, all of its tensors alike."""

    def rows(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith("lm_head.")]:
            tensors[name].copy_(change(tensors[name].clone()))

    return on(rows)


def _two_rows(rows: Tensor) -> Tensor:
    rows[[5, 12]] = rows[[12, 5]]
    return rows


def _perturbed(kernel: Tensor) -> None:
    """A hundredth of noise, as of a weight norm that was folded in bfloat16."""
    random = torch.Generator().manual_seed(0)
    kernel.mul_(1 + 0.01 * torch.randn(kernel.shape, generator=random))


def _unfolded(kernel: Tensor) -> None:
    """The direction of a weight norm without its length."""
    kernel.div_(kernel.square().sum((0, 1), keepdim=True).sqrt())


def _norms_exchanged(tensors: Tensors) -> None:
    one, other = (f"{_LAYER.format(1, name)}.weight" for name in ("layer_norm", "final_layer_norm"))
    first = tensors[one].clone()
    tensors[one].copy_(tensors[other] * 1.02)
    tensors[other].copy_(first)


def _epsilon(g: Edited) -> None:
    """The group norm's epsilon of another library."""
    for node in g.of("InstanceNormalization"):
        g.set(node, "epsilon", 1e-3)


def _one_frame_early(g: Edited) -> None:
    """The positional convolution is padded on the other side: positions are a frame off."""
    (node,) = [n for n in g.of("Conv") if "pos_conv_embed" in n.input[1]]
    pads = next(each for each in node.attribute if each.name == "pads")
    g.set(node, "pads", [pads.ints[0] - 1, pads.ints[1] + 1])


add = PLANTS.add
add("blank-and-letter", "ctc/onnx-ctc", "severe", "pad|vocab.json", _exchanged("<pad>", "e"))
add("blank-in-config", "ctc/torch-ctc", "severe", "pad_token_id", _set(_CONFIG, pad_token_id=4))
add("blank-in-both", "ctc/aoti-ctc", "severe", "pad_token_id|vocab.json", _blank_everywhere)
add("letters-exchanged", "ctc/aoti-ctc", "medium", "vocab.json", _exchanged("b", "k"))
add(
    "delimiter-is-a-letter",
    "ctc/torch-ctc",
    "medium",
    "word_delimiter_token",
    _set(_SETTINGS, word_delimiter_token="a"),
)
add("lower-case", "ctc/onnx-ctc", "latent", "do_lower_case", _set(_SETTINGS, do_lower_case=True))
add("not-normalised", "ctc/onnx-ctc", "medium", "do_normalize", _set(_SAMPLES, do_normalize=False))
add(
    "not-normalised-aoti",
    "ctc/aoti-ctc",
    "medium",
    "do_normalize",
    _set(_SAMPLES, do_normalize=False),
)
add(
    "attention-mask",
    "ctc/torch-ctc",
    "latent",
    "return_attention_mask",
    _set(_SAMPLES, return_attention_mask=True),
)
add(
    "sampling-rate-ctc",
    "ctc/torch-ctc",
    "severe",
    "sampling_rate",
    _set(_SAMPLES, sampling_rate=8000),
)
add(
    "norms-first",
    "ctc/torch-ctc",
    "medium",
    "do_stable_layer_norm",
    _set(_CONFIG, do_stable_layer_norm=True),
)
add(
    "layer-norm-epsilon",
    "ctc/torch-ctc",
    "subtle",
    "layer_norm_eps",
    _set(_CONFIG, layer_norm_eps=1e-3),
)
add(
    "strides-in-config",
    "ctc/onnx-ctc",
    "latent",
    "conv_stride",
    _set(_CONFIG, conv_stride=[8, 8, 4]),
)
add("head-rows-permuted", "ctc/onnx-ctc", "severe", "lm_head", _head(lambda rows: rows.roll(1, 0)))
add("head-two-rows", "ctc/aoti-ctc", "medium", "lm_head", _head(_two_rows))
add(
    "blank-too-likely",
    "ctc/torch-ctc",
    "medium",
    "lm_head.bias",
    _leaf("lm_head.bias", lambda b: b[0].add_(2)),
)
add(
    "norm-up-2-percent",
    "ctc/onnx-ctc",
    "subtle",
    "layer_norm",
    _leaf(f"{_LAYER.format(1, 'layer_norm')}.weight", lambda w: w.mul_(1.02)),
)
add(
    "norm-up-2-percent-aoti",
    "ctc/aoti-ctc",
    "subtle",
    "layer_norm",
    _leaf(f"{_LAYER.format(0, 'final_layer_norm')}.weight", lambda w: w.mul_(1.02)),
)
add("norms-exchanged", "ctc/torch-ctc", "subtle", "layer_norm", on(_norms_exchanged))
add(
    "positions-perturbed",
    "ctc/torch-ctc",
    "subtle",
    "pos_conv_embed",
    _leaf(f"{_POSITIONS}.weight", _perturbed),
)
add(
    "positions-without-length",
    "ctc/onnx-ctc",
    "medium",
    "pos_conv_embed",
    _leaf(f"{_POSITIONS}.weight", _unfolded),
)
add(
    "positions-reversed",
    "ctc/aoti-ctc",
    "medium",
    "pos_conv_embed",
    _leaf(f"{_POSITIONS}.weight", lambda w: w.copy_(w.flip(2).clone())),
)
add(
    "group-norm-up-2-percent",
    "ctc/torch-ctc",
    "subtle",
    "conv_layers.0.layer_norm",
    _leaf(f"{_GROUP_NORM}.weight", lambda w: w.mul_(1.02)),
)
add(
    "group-norm-channels",
    "ctc/aoti-ctc",
    "medium",
    "conv_layers.0.layer_norm",
    _leaf(f"{_GROUP_NORM}.bias", lambda b: b.add_(0.1)),
)
add(
    "group-norm-epsilon",
    "ctc/onnx-ctc",
    "subtle",
    "faithful|convolutions",
    on_graph("model", _epsilon),
)
add(
    "positions-a-frame-early",
    "ctc/onnx-ctc",
    "medium",
    "faithful|positions",
    on_graph("model", _one_frame_early),
)
add(
    "native-group-norm",
    "ctc/aoti-ctc",
    "medium",
    "faithful|inputs|convolutions",
    compiled("group-norm"),
)
add(
    "native-positions-early",
    "ctc/aoti-ctc",
    "medium",
    "faithful|inputs|positions",
    compiled("early"),
)
