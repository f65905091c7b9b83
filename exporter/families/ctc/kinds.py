"""The kinds of CTC models, by `model_type`: transformers' classes, our graph, and its input.

To add one whose encoder is another: a module in `graphs` that computes its logits, and a line here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import transformers
from torch import Tensor

from exporter.families.ctc import speechbrain
from exporter.families.ctc.config_limits import SPEECHBRAIN
from exporter.families.ctc.decoding.fbank import Fbank
from exporter.families.ctc.decoding.features import Input, Samples
from exporter.families.ctc.decoding.log_mel import LogMel
from exporter.families.ctc.graphs import conformer, parakeet, wav2vec2, wavlm
from exporter.families.ctc.graphs import speechbrain as speechbrain_graph
from exporter.families.ctc.graphs.whole import graph_of
from exporter.families.derived import Derivation
from exporter.families.graph import Graph

_EXAMPLE_FRAMES = 12
_SAMPLES = Samples()


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        model: The name of the class with a CTC head, of transformers if no module is given.
        config: The name of its config's class.
        prefix: How the names of the encoder's parameters begin.
        logits: Computes the logits of a model for its input.
        input: How audio becomes that input.
        norm: The name of a batch norm behind the prefix, with `{}` for the layer's index, where
            models have one.
        tokenizer: The name of transformers' class of the tokenizer.
        prepare: Changes a model of transformers so that all of its linear modules are modules that
            may be replaced; its results stay the same.
        module: The module of the classes of model and config.
        head: Returns the forms in which the head of a config may be stored.
        loaded: Returns stored weights by the names of the class, for an original.
    """

    model: str
    config: str
    prefix: str
    logits: Callable[[Any, Tensor, int | None], Tensor] = wav2vec2.logits
    input: Input = _SAMPLES
    norm: str = "encoder.pos_conv_embed.batch_norm"
    tokenizer: str = "Wav2Vec2CTCTokenizer"
    prepare: Callable[[Any], None] | None = None
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

    @property
    def tokenizer_class(self) -> Any:
        """transformers' class of the tokenizer."""
        return getattr(transformers, self.tokenizer)

    @property
    def is_fast(self) -> bool:
        """Whether the tokenizer is a `tokenizer.json`."""
        return self.tokenizer.endswith("Fast")

    @property
    def attention(self) -> str:
        """The implementation of attention in transformers' class."""
        return "sdpa" if self.model_class._supports_sdpa else "eager"

    def graph(self, model: Any) -> Graph:
        """Cut a model into its only graph."""
        source, config = self.input, model.config
        shape = source.example(config, _EXAMPLE_FRAMES)
        least = source.example(config, 1)[0]
        return graph_of(model, self.logits, source.name, source.axis, shape, least)


KINDS = {
    "wav2vec2": Kind("Wav2Vec2ForCTC", "Wav2Vec2Config", "wav2vec2."),
    "hubert": Kind("HubertForCTC", "HubertConfig", "hubert."),
    "data2vec-audio": Kind("Data2VecAudioForCTC", "Data2VecAudioConfig", "data2vec_audio."),
    "unispeech": Kind("UniSpeechForCTC", "UniSpeechConfig", "unispeech."),
    "unispeech-sat": Kind("UniSpeechSatForCTC", "UniSpeechSatConfig", "unispeech_sat."),
    "wavlm": Kind(
        "WavLMForCTC", "WavLMConfig", "wavlm.", wavlm.logits, prepare=wavlm.own_attention
    ),
    "wav2vec2-conformer": Kind(
        "Wav2Vec2ConformerForCTC",
        "Wav2Vec2ConformerConfig",
        "wav2vec2_conformer.",
        conformer.logits,
        norm="encoder.layers.{}.conv_module.batch_norm",
    ),
    "wav2vec2-bert": Kind(
        "Wav2Vec2BertForCTC",
        "Wav2Vec2BertConfig",
        "wav2vec2_bert.",
        conformer.logits_of_features,
        Fbank(),
    ),
    "parakeet_ctc": Kind(
        "ParakeetForCTC",
        "ParakeetCTCConfig",
        "encoder.",
        parakeet.logits,
        LogMel(),
        norm="layers.{}.conv.norm",
        tokenizer="ParakeetTokenizerFast",
        prepare=parakeet.linear_head,
    ),
    SPEECHBRAIN: Kind(
        "SpeechBrainForCTC",
        "SpeechBrainConfig",
        "wav2vec2.",
        speechbrain_graph.logits,
        module=speechbrain,
        head=lambda config: speechbrain.derived(config["head_widths"]),
        loaded=speechbrain.fused,
    ),
}

# Those that the pipeline of transformers.js takes, release 4.3: `automatic-speech-recognition.js`.
IN_JAVASCRIPT = ("wav2vec2", "hubert", "unispeech", "unispeech-sat")


def input_of(config: Any) -> Input:
    """Return how audio becomes the input of a model with this config."""
    return KINDS[config.model_type].input


def first_frame(config: Any) -> int:
    """Return the samples that the first frame of a model with this config takes."""
    return input_of(config).first_frame(config)
