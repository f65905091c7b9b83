"""A SpeechBrain recogniser: the encoder of wav2vec 2.0, normalised, and its head."""

from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.ctc.graphs import wav2vec2
from exporter.families.ctc.speechbrain import EPSILON, SLOPE


def logits(model: Any, samples: Tensor, num_layers: int | None) -> Tensor:
    """Return logits [batch, frames, vocabulary] for samples [batch, samples], not normalised.

    Args:
        model: The model.
        samples: Its input, in the type in which it computes.
        num_layers: Number of layers to run, with marked boundaries; None: all, unmarked.
    """
    if model.config.normalize_samples:
        samples = _normalized(samples, (1,))
    hidden = wav2vec2.encoded(model, samples, num_layers)
    if model.config.output_norm:
        hidden = _normalized(hidden, (1, 2))
    for linear in model.enc.children():
        hidden = nn.functional.leaky_relu(linear(hidden), SLOPE)
    found: Tensor = model.lm_head(hidden)
    return found


def _normalized(states: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Normalise each recording over all of some axes, in float32."""
    wide = states.to(torch.float32)
    centered = wide - wide.mean(axes, keepdim=True)
    variance = centered.square().mean(axes, keepdim=True)
    normalized: Tensor = centered * (variance + EPSILON).rsqrt()
    return normalized.to(states.dtype)
