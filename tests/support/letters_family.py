"""A family in one file: tiny `Wav2Vec2ForCTC` models, samples in, letters out.

It stands for whatever family comes next, under an invented model type: the product has one for CTC
models, in several files. `tests/families/test_second_family.py` puts it into a copy
of the product, beside Whisper, with one line in the registry.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)
from transformers.modeling_outputs import CausalLMOutput

from exporter.errors import CheckpointError
from exporter.families.base import Configs
from exporter.families.derived import Derivation
from exporter.families.facts import Companions
from exporter.families.forcing import Forced
from exporter.families.graph import Graph, GraphFunction
from exporter.formats.audio import whole
from exporter.formats.config_limits import Limits
from exporter.recipe import Decoding
from exporter.runtime.decoding import refuse_foreign
from exporter.runtime.transcript import Audio, Segment, Sound, Transcript

MODEL_TYPES = ("letters",)
COMPANIONS = Companions(
    configs=("config.json", "preprocessor_config.json"),
    tokenizer=("vocab.json", "tokenizer_config.json", "special_tokens_map.json"),
    tokenizer_forms=(("vocab.json",),),
)


class _Any(Limits):
    """Whatever a file holds: these checkpoints are the tests' own."""

    model_config = ConfigDict(title="Letters", extra="allow")


CONFIGS = dict.fromkeys(COMPANIONS.configs, _Any)
DECODING = ("batch_size",)
ENCODERS = ("model",)

TIED: dict[str, str] = {}
HEAD = "lm_head"
UNUSED = ()
BARE = ("feature_extractor.", "feature_projection.", "encoder.", "masked_spec_embed")
LAYERS = {"model": "num_hidden_layers"}

_SAMPLES = 16_000  # a window: what the graph takes at once
_CONV = "wav2vec2.encoder.pos_conv_embed.conv"


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    names = ("model_type", "hidden_act", "feat_extract_norm", "conv_stride", "num_attention_heads")
    return {name: config.get(name) for name in names}


def prefix(_config: dict[str, Any]) -> str:
    return "wav2vec2."


def derived(_config: dict[str, Any]) -> Mapping[str, Sequence[Derivation]]:
    """A weight norm under the names that torch gives its parts, today's first."""
    parts = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    forms = [parts, ("weight_g", "weight_v")]
    return {
        f"{_CONV}.weight": [
            Derivation((f"{_CONV}.{length}", f"{_CONV}.{direction}"), _weight_norm)
            for length, direction in forms
        ]
    }


def _weight_norm(length: Tensor, direction: Tensor) -> Tensor:
    scaled: Tensor = direction * (
        length / torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    )
    return scaled


def one_language(_folder: Path, _wanted: str | None) -> None:
    return


def skeleton(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    try:
        with torch.device("meta"):
            model: nn.Module = Wav2Vec2ForCTC._from_config(
                Wav2Vec2Config.from_dict(config), attn_implementation="sdpa", dtype=dtype
            )
    except (ValueError, TypeError) as error:
        msg = f"config.json: {error}"
        raise CheckpointError(msg) from error
    parametrize.remove_parametrizations(model.get_submodule(_CONV), "weight")
    return model.eval().requires_grad_(False)


class _Logits(nn.Module):
    """input_values [batch, samples] -> logits [batch, frames, vocabulary]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        dtype = self.model.lm_head.bias.dtype
        return (self.model(inputs[0].to(dtype)).logits,)


def graphs(model: Any, cache: Literal["dynamic", "static"]) -> list[Graph]:
    """One graph; nothing is remembered from one window to the next."""
    frames = int(model._get_feat_extract_output_lengths(_SAMPLES))
    inputs = {"input_values": torch.empty((2, _SAMPLES), device="meta")}
    axes = {"input_values": {0: "batch"}}
    outputs = {"logits": ("batch", frames, model.config.vocab_size)}
    return [Graph("model", _Logits(model), inputs, axes, outputs)]


def device_graphs(model: Any, rows: Sequence[int], *, narrow: bool = False) -> list[Graph]:
    """Return the only graph."""
    return graphs(model, "static")


class _GraphModel(nn.Module):
    """A built graph in the place of the model."""

    def __init__(self, config: Wav2Vec2Config, functions: Mapping[str, GraphFunction]) -> None:
        super().__init__()
        self.config = config
        self.engine = SimpleNamespace(functions=dict(functions))

    def forward(self, input_values: Tensor) -> CausalLMOutput:
        made = self.engine.functions["model"]({"input_values": input_values})
        return CausalLMOutput(logits=made["logits"])


def assemble(
    folder: Path,
    functions: Mapping[str, GraphFunction],
    cache_dtype: torch.dtype = torch.float32,
    *,
    narrow: bool = False,
) -> Any:
    return _GraphModel(Wav2Vec2Config.from_pretrained(folder), functions)


def attach_engine(model: Any, folder: Path) -> None:
    """transformers' own forward is what runs."""


def open_original(folder: Path, state: dict[str, Tensor] | None = None) -> Any:
    if state is None:
        model = Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True)
    else:
        config = Wav2Vec2Config.from_pretrained(folder, local_files_only=True)
        model = Wav2Vec2ForCTC.from_pretrained(None, config=config, state_dict=state)
    return model.float().eval()


def processor(folder: Path) -> Any:
    return Wav2Vec2Processor(
        Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True),
        Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True),
    )


def sampling_rate(processor: Any) -> int:
    return int(processor.feature_extractor.sampling_rate)


def window(processor: Any) -> int:
    return _SAMPLES


def vocabulary(processor: Any) -> int:
    return len(processor.tokenizer) - len(processor.tokenizer.all_special_ids)


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    return {}


def check_processor(folder: Path, config: dict[str, Any]) -> None:
    size = len(processor(folder).tokenizer)
    if size != config["vocab_size"]:
        msg = f"{folder}: its tokenizer has {size} tokens, the model {config['vocab_size']}"
        raise CheckpointError(msg)


def configs(model: Any) -> Configs:
    return {"config.json": model.config.to_dict()}


def text_language(configs: Configs, decoding: Decoding, spoken: str | None) -> str | None:
    return spoken


def language_code(configs: Configs, name: str) -> str | None:
    return None


def check_decoding(configs: Configs, decoding: Decoding) -> None:
    refuse_foreign(vars(decoding), DECODING)


def limit_tokens(model: Any, tokens: int) -> None:
    """A window has as many frames as it has, whatever is spoken in it."""


def force_tokens(model: Any, tokens: int) -> bool:
    return False


def transcribe(
    model: Any, processor: Any, sounds: Sequence[Sound], decoding: Decoding
) -> list[Transcript]:
    audio = [whole(sound) for sound in sounds]
    parts = [(index, part) for index, sound in enumerate(audio) for part in _windows(sound)]
    frames: list[list[int]] = [[] for _ in audio]
    size = decoding.batch_size
    for start in range(0, len(parts), size):
        group = parts[start : start + size]
        features = processor.feature_extractor(
            [part for _, part in group], sampling_rate=sampling_rate(processor), return_tensors="pt"
        )
        with torch.inference_mode():
            best = model(features.input_values).logits.argmax(-1)
        for (index, _), row in zip(group, best.tolist(), strict=True):
            frames[index] += row
    return [
        _transcript(processor, row, len(sound)) for row, sound in zip(frames, audio, strict=True)
    ]


class _Forcing:
    """Nothing is given to a model without a decoder: its frames are compared as they are."""

    def runs_once(self, module: str) -> bool:
        return True

    def cache_of(self, module: str) -> None:
        return None

    def static_graph(self, module: str) -> str:
        return "model"

    def keeps_int8(self, quantized: Collection[str]) -> bool:
        return False

    def cache_heads(self, model: Any) -> int:
        return 1

    def window_features(self, processor: Any, sounds: Sequence[Audio]) -> Tensor:
        features = processor.feature_extractor(
            [next(_windows(sound)) for sound in sounds],
            sampling_rate=sampling_rate(processor),
            return_tensors="pt",
        )
        values: Tensor = features.input_values
        return values

    def own_features(self, model: Any, processor: Any, sounds: Sequence[Audio]) -> Tensor:
        return self.window_features(processor, sounds)

    def forced_prompt(self, model: Any, decoding: Decoding) -> list[int]:
        return []

    def most_tokens(self, model: Any) -> int:
        return 0

    def forced(self, model: Any, features: Tensor, tokens: Tensor, calls: Sequence[int]) -> Forced:
        with torch.inference_mode():
            return Forced(model(features).logits.float(), {})

    def forced_rows(
        self, model: Any, features: Tensor, tokens: Tensor, prompt: int, beams: int
    ) -> Tensor:
        raise NotImplementedError

    def forced_others(
        self,
        model: Any,
        graphs: Mapping[str, GraphFunction],
        features: Tensor,
        tokens: Tensor,
        calls: Sequence[int],
    ) -> dict[str, Forced]:
        return {}


forcing = _Forcing()


def _windows(sound: Audio) -> Iterator[Audio]:
    """A recording's windows, the last one filled up with silence."""
    for start in range(0, max(len(sound), 1), _SAMPLES):
        part = sound[start : start + _SAMPLES]
        yield np.pad(part, (0, _SAMPLES - len(part)))


def _transcript(processor: Any, frames: list[int], samples: int) -> Transcript:
    blank = processor.tokenizer.pad_token_id
    pairs = zip(frames, [None, *frames], strict=False)
    tokens = tuple(token for token, before in pairs if token != before and token != blank)
    text = processor.tokenizer.decode(frames).strip()
    return Transcript(text, tokens, (Segment(0.0, samples / sampling_rate(processor), text),))
