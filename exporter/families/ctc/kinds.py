"""The kinds of CTC models, by `model_type`: transformers' classes and our graph.

To add one whose encoder is another: a module in `graphs` with its graph, and a line here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers

from exporter.families.ctc.config_limits import receptive_field
from exporter.families.ctc.graphs import wav2vec2
from exporter.families.graph import Graph


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        model: The name of transformers' class with a CTC head.
        config: The name of its config's class.
        prefix: How the names of the encoder's parameters begin.
        graph: Cuts a model, whose first frame takes so many samples, into its graph.
    """

    model: str
    config: str
    prefix: str
    graph: Callable[[Any, int], Graph] = wav2vec2.graph

    @property
    def model_class(self) -> Any:
        """transformers' class of the model."""
        return getattr(transformers, self.model)

    @property
    def config_class(self) -> Any:
        """transformers' class of the config."""
        return getattr(transformers, self.config)


KINDS = {
    "wav2vec2": Kind("Wav2Vec2ForCTC", "Wav2Vec2Config", "wav2vec2."),
    "hubert": Kind("HubertForCTC", "HubertConfig", "hubert."),
    "data2vec-audio": Kind("Data2VecAudioForCTC", "Data2VecAudioConfig", "data2vec_audio."),
    "unispeech": Kind("UniSpeechForCTC", "UniSpeechConfig", "unispeech."),
    "unispeech-sat": Kind("UniSpeechSatForCTC", "UniSpeechSatConfig", "unispeech_sat."),
}


def first_frame(config: Any) -> int:
    """Return the samples that the first frame of a model with this config takes."""
    return receptive_field(list(config.conv_kernel), list(config.conv_stride))
