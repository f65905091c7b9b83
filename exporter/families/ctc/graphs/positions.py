"""Positions of conformers, computed anew for every length.

transformers' own modules keep what they computed for the longest input so far, in attributes that
a tracer takes for constants. These have the same results, without attributes, and take the places
of transformers' modules in a skeleton, so that its forward works too.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


def relative(length: int, device: torch.device) -> Tensor:
    """Return the distances of a query to keys, in the order of `by_distance`: int64 [2 n - 1].

    The first is that of the last query to the first key, n - 1.
    """
    return torch.arange(length - 1, -length, -1, device=device)


class RelativePositions(nn.Module):
    """Sine and cosine of every distance in turn, [1, 2 frames - 1, width] for states.

    As a power, it computes as Parakeet does, for every recording of a batch; else as wav2vec 2.0's
    conformer. Their roundings differ.
    """

    def __init__(self, width: int, *, as_power: bool = False) -> None:
        super().__init__()
        self._width = width
        self._as_power = as_power

    def forward(self, states: Tensor) -> Tensor:
        """Return the positions of [batch, frames, width], in float32 until the end."""
        distances = relative(states.shape[1], states.device).float()
        angles = distances[:, None] * self._frequencies(states.device)
        both = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        return both.to(states.dtype).expand(len(states) if self._as_power else 1, -1, -1)

    def _frequencies(self, device: torch.device) -> Tensor:
        even = torch.arange(0, self._width, 2, device=device).float()
        if self._as_power:
            return 1.0 / 10_000.0 ** (even / self._width)
        return torch.exp(even * -(math.log(10_000.0) / self._width))


class RotaryPositions(nn.Module):
    """Cosine and sine of every position, [2, frames, 1, 1, head width] for states."""

    def __init__(self, width: int, base: float) -> None:
        super().__init__()
        self._width = width
        self._base = base

    def forward(self, states: Tensor) -> Tensor:
        """Return the positions of [batch, frames, width], in float32 until the end."""
        even = torch.arange(0, self._width, 2, device=states.device).float()
        frequencies = 1.0 / self._base ** (even / self._width)
        times = torch.arange(states.shape[1], device=states.device).float()
        angles = (times[:, None] * frequencies).repeat(1, 2)
        both = torch.stack([angles.cos(), angles.sin()])
        return both[:, :, None, None].to(states.dtype)


def compute_positions(encoder: Any) -> None:
    """Replace an encoder's module of positions by one without a cache."""
    config = encoder.config
    if hasattr(encoder, "encode_positions"):
        encoder.encode_positions = RelativePositions(config.hidden_size, as_power=True)
    elif getattr(encoder, "embed_positions", None) is None:
        return
    elif config.position_embeddings_type == "rotary":
        width = config.hidden_size // config.num_attention_heads
        encoder.embed_positions = RotaryPositions(width, config.rotary_embedding_base)
    else:
        encoder.embed_positions = RelativePositions(config.hidden_size)
