"""The kinds of CTC models, by `model_type`: transformers' classes and our graph.

To add one whose encoder is another: a module in `graphs` with its graph, and a line here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import transformers
from torch import Tensor

from exporter.families.ctc import speechbrain
from exporter.families.ctc.config_limits import receptive_field
from exporter.families.ctc.graphs import speechbrain as speechbrain_graph
from exporter.families.ctc.graphs import wav2vec2
from exporter.families.derived import Derivation
from exporter.families.graph import Graph


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        model: The name of the class with a CTC head, of transformers if no module is given.
        config: The name of its config's class.
        prefix: How the names of the encoder's parameters begin.
        graph: Cuts a model, whose first frame takes so many samples, into its graph.
        module: The module of both classes.
        head: Returns the forms in which the head of a config may be stored.
        loaded: Returns stored weights by the names of the class, for an original.
    """

    model: str
    config: str
    prefix: str
    graph: Callable[[Any, int], Graph] = wav2vec2.graph
    module: ModuleType = transformers
    head: Callable[[Mapping[str, Any]], Mapping[str, Sequence[Derivation]]] = lambda _: {}
    loaded: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state

    @property
    def model_class(self) -> Any:
        """The class of the model."""
        return getattr(self.module, self.model)

    @property
    def config_class(self) -> Any:
        """The class of the config."""
        return getattr(self.module, self.config)


KINDS = {
    "wav2vec2": Kind("Wav2Vec2ForCTC", "Wav2Vec2Config", "wav2vec2."),
    "hubert": Kind("HubertForCTC", "HubertConfig", "hubert."),
    "data2vec-audio": Kind("Data2VecAudioForCTC", "Data2VecAudioConfig", "data2vec_audio."),
    "unispeech": Kind("UniSpeechForCTC", "UniSpeechConfig", "unispeech."),
    "unispeech-sat": Kind("UniSpeechSatForCTC", "UniSpeechSatConfig", "unispeech_sat."),
    "speechbrain-wav2vec2-ctc": Kind(
        "SpeechBrainForCTC",
        "SpeechBrainConfig",
        "wav2vec2.",
        speechbrain_graph.graph,
        speechbrain,
        lambda config: speechbrain.derived(config["head_widths"]),
        speechbrain.fused,
    ),
}


def first_frame(config: Any) -> int:
    """Return the samples that the first frame of a model with this config takes."""
    return receptive_field(list(config.conv_kernel), list(config.conv_stride))
