"""Parakeet, a Fast Conformer: log-mel features to logits.

It computes what transformers' forward does in evaluation, without its mask.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from exporter.families.attention import split
from exporter.families.ctc.graphs.layers import attend_by_distance, glu_convolutions, run_layers


def logits(model: Any, features: Tensor, num_layers: int | None) -> Tensor:
    """Return logits [batch, frames, vocabulary] for features [batch, feature frames, mels]."""
    encoder = model.encoder
    hidden = _subsampled(encoder.subsampling, features) * encoder.input_scale
    # All recordings have the same positions.
    run = partial(_layer, positions=encoder.encode_positions(hidden[:1]))
    found: Tensor = model.lm_head(run_layers(encoder.layers, run, hidden, num_layers))
    return found


def _subsampled(subsampling: Any, features: Tensor) -> Tensor:
    """Halve frames and mels by strided convolutions, as often as the model does."""
    hidden = features[:, None]
    for layer in subsampling.layers:
        if isinstance(layer, nn.Conv2d):
            weight, bias = layer.weight.to(hidden.dtype), layer.bias
            bias = None if bias is None else bias.to(hidden.dtype)
            hidden = nn.functional.conv2d(
                hidden, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        else:
            hidden = layer(hidden)
    projected: Tensor = subsampling.linear(hidden.transpose(1, 2).flatten(2))
    return projected


def _layer(layer: Any, hidden: Tensor, positions: Tensor) -> Tensor:
    hidden = hidden + 0.5 * _fed(layer.feed_forward1, layer.norm_feed_forward1(hidden))
    hidden = hidden + _attend(layer.self_attn, layer.norm_self_att(hidden), positions)
    conv = layer.conv
    hidden = hidden + glu_convolutions(conv, layer.norm_conv(hidden), conv.norm.frames)
    hidden = hidden + 0.5 * _fed(layer.feed_forward2, layer.norm_feed_forward2(hidden))
    normed: Tensor = layer.norm_out(hidden)
    return normed


def _fed(block: Any, states: Tensor) -> Tensor:
    output: Tensor = block.linear2(block.activation(block.linear1(states)))
    return output


def _attend(module: Any, states: Tensor, positions: Tensor) -> Tensor:
    heads = module.config.num_attention_heads
    attended = attend_by_distance(
        (module.q_proj(states), module.k_proj(states), module.v_proj(states)),
        split(module.relative_k_proj(positions), heads),
        (module.bias_u, module.bias_v),
        module.scaling,
    )
    projected: Tensor = module.o_proj(attended)
    return projected


class _Head:
    """The linear module `lm_head` of a model, in the place of a convolution.

    It is no module itself: the one it applies is the model's, and may be replaced there.

    Args:
        model: The model.
        channels_first: Whether it is applied to [batch, channels, frames], as the convolution of
            transformers 4, not to [batch, frames, channels].
    """

    def __init__(self, model: Any, *, channels_first: bool) -> None:
        self._model = model
        self._channels_first = channels_first

    def __call__(self, states: Tensor) -> Tensor:
        if self._channels_first:
            return self._model.lm_head(states.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
        return self._model.lm_head(states)  # type: ignore[no-any-return]


def linear_head(model: Any) -> None:
    """Make a model's head, a convolution of a single frame, the linear module `lm_head`."""
    conv = model.ctc_head
    head = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
    head.weight = nn.Parameter(conv.weight.detach().squeeze(-1), requires_grad=False)
    head.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
    del model.ctc_head
    model.lm_head = head
    model.ctc_head = _Head(model, channels_first=type(conv) is nn.Conv1d)
