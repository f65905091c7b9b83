"""Build an artifact of native code from a changed model: `python -m tests.damage.native NAME OUT`.

What is wrong is in the compiled graph, while weights, configs and manifest are as they should be.
Runs in a process, and with a cache, of its own, so that nothing changed is used by another build.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from exporter import recipe
from exporter.families.ctc.graphs.layers import convolve
from tests.damage.grounds import GROUNDS
from tests.support.in_process import steps_in_process

_STATIC = "exporter.families.whisper.graphs.static"
_CTC = "exporter.families.ctc.graphs.wav2vec2"
Patch = tuple[str, str, Callable[[Any], Any]]


def _epsilon(skeleton: Any) -> Any:
    """Layer norms with another epsilon."""

    def changed(*args: Any, **how: Any) -> Any:
        model = skeleton(*args, **how)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-3
        return model

    return changed


def _activation(_feed_forward: Any) -> Any:
    """The decoder's feed-forward blocks with a quick approximation of GELU."""

    def changed(layer: Any, hidden: Tensor) -> Tensor:
        states = layer.fc1(layer.final_layer_norm(hidden))
        output: Tensor = hidden + layer.fc2(states * torch.sigmoid(1.702 * states))
        return output

    return changed


def _scaling(skeleton: Any) -> Any:
    """An attention's scale that is too small."""

    def changed(*args: Any, **how: Any) -> Any:
        model = skeleton(*args, **how)
        for layer in model.model.decoder.layers[:1]:
            layer.encoder_attn.scaling *= 0.7
        return model

    return changed


def _positions(embed: Any) -> Any:
    """Positions off by one."""
    return lambda decoder, ids, positions: embed(decoder, ids, positions + 1)


def _late(embed: Any) -> Any:
    """Positions stop at 40, as of caches that were made too short."""
    return lambda decoder, ids, positions: embed(decoder, ids, positions.clamp(max=40))


def _deaf(encode: Any) -> Any:
    """Frames beyond the first 120 are zeros."""

    def changed(encoder: Any, features: Tensor, *rest: Any) -> Tensor:
        hidden: Tensor = encode(encoder, features, *rest)
        heard = torch.arange(hidden.shape[1], device=hidden.device) < 120
        return hidden * heard[None, :, None].to(hidden.dtype)

    return changed


def _group_norm(_front_end: Any) -> Any:
    """A group norm whose statistics are those of the first frames, as of a stream."""

    def changed(layers: Any, samples: Tensor) -> Tensor:
        hidden = samples[..., None]
        for layer in layers:
            hidden = convolve(layer.conv, hidden)
            norm = getattr(layer, "layer_norm", None)
            if norm is not None:
                first = hidden[:, :40]
                mean = first.mean(1, keepdim=True)
                spread = (first - mean).square().mean(1, keepdim=True).add(norm.eps).sqrt()
                hidden = (hidden - mean) / spread * norm.weight + norm.bias
            hidden = layer.activation(hidden)
        return hidden

    return changed


def _early(_positions: Any) -> Any:
    """Positions of the frame before: the surplus one is cut at the start."""

    def changed(embedding: Any, hidden: Tensor) -> Tensor:
        found: Tensor = embedding.activation(convolve(embedding.conv, hidden)[:, 1:])
        return found

    return changed


PATCHES: dict[str, Patch] = {
    "epsilon": ("exporter.families.whisper.family", "skeleton", _epsilon),
    "activation": (_STATIC, "feed_forward", _activation),
    "scaling": ("exporter.families.whisper.family", "skeleton", _scaling),
    "positions": (_STATIC, "embed", _positions),
    "late-positions": (_STATIC, "embed", _late),
    "deaf": (_STATIC, "encode", _deaf),
    "group-norm": (_CTC, "front_end", _group_norm),
    "early": (_CTC, "_positions", _early),
}


def place_of(name: str) -> tuple[str, str]:
    """Return the ground and the target of a patch."""
    return ("ctc", "aoti-ctc") if PATCHES[name][0] == _CTC else ("tiny", "aoti")


def main() -> None:
    """Build a ground's aoti artifact into a folder, with one patch."""
    name, output = sys.argv[1], Path(sys.argv[2]).resolve()
    os.environ["EXPORTER_CACHE"] = str(output / "cache")
    from exporter.build.pipeline import build

    module, attribute, change = PATCHES[name]
    owner = import_module(module)
    original = getattr(owner, attribute)
    ground, target = place_of(name)
    read = recipe.read(GROUNDS[ground].folder / "recipe.yaml")
    with steps_in_process(), mock.patch.object(owner, attribute, change(original)):
        build(read, output=output, targets=[target], progress=lambda *_: None)


if __name__ == "__main__":
    main()
