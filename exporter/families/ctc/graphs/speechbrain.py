"""The graph of a SpeechBrain recogniser: the encoder of wav2vec 2.0, normalised, and its head."""

import torch
from torch import Tensor, nn

from exporter.families.ctc.graphs import wav2vec2
from exporter.families.ctc.speechbrain import EPSILON, SLOPE
from exporter.families.graph import Graph


class Logits(wav2vec2.Logits):
    """input_values [batch, samples], not normalised -> logits [batch, frames, vocabulary]."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        model, samples = self.model, inputs[0]
        if model.config.normalize_samples:
            samples = _normalized(samples, (1,))
        hidden = self.encoded(samples)
        if model.config.output_norm:
            hidden = _normalized(hidden, (1, 2))
        for linear in model.enc.children():
            hidden = nn.functional.leaky_relu(linear(hidden), SLOPE)
        return (model.lm_head(hidden),)


def _normalized(states: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Normalise each recording over all of some axes, in float32."""
    wide = states.to(torch.float32)
    centered = wide - wide.mean(axes, keepdim=True)
    variance = centered.square().mean(axes, keepdim=True)
    normalized: Tensor = centered * (variance + EPSILON).rsqrt()
    return normalized.to(states.dtype)


def graph(model: nn.Module, samples: int) -> Graph:
    """Return the only graph of a model whose first frame takes so many samples."""
    return wav2vec2.graph(model, samples, Logits)
