"""CTC models as a family: graph, assembly, processor and transcription."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter.errors import CheckpointError, RecipeError
from exporter.families.base import Cache, Configs
from exporter.families.ctc import construct, engine
from exporter.families.ctc import derived as forms
from exporter.families.ctc import forced as forcing
from exporter.families.ctc.decoding.tokenizer_json import tokenizer_json
from exporter.families.ctc.decoding.transcribe import transcribe
from exporter.families.ctc.graphs.whole import GRAPH
from exporter.families.ctc.kinds import IN_JAVASCRIPT, KINDS, input_of
from exporter.families.ctc.language_codes import matching
from exporter.families.ctc.languages import TARGET, one_language
from exporter.families.derived import Derivation
from exporter.families.graph import Graph, GraphFunction
from exporter.families.layered import LayeredGraph
from exporter.formats.config_json import is_regular_file, read_json
from exporter.recipe import Decoding
from exporter.runtime.ctc.model import check_decoding as check_options
from exporter.runtime.ctc.tokens import FAST, TOKENIZER

__all__ = [  # the family's protocol
    "BARE",
    "HEAD",
    "LAYERS",
    "TIED",
    "UNUSED",
    "architecture",
    "assemble",
    "attach_engine",
    "check_decoding",
    "check_processor",
    "configs",
    "derived",
    "device_graphs",
    "force_tokens",
    "forcing",
    "graphs",
    "language_code",
    "limit_tokens",
    "one_language",
    "open_original",
    "prefix",
    "processor",
    "sampling_rate",
    "skeleton",
    "text_language",
    "tokenizer_files",
    "transcribe",
    "vocabulary",
    "window",
]

TIED: dict[str, str] = {}
HEAD = "lm_head"
BARE = (
    *("feature_extractor.", "feature_projection.", "encoder.", "masked_spec_embed"),
    *("adapter.", "intermediate_ffn."),
)
UNUSED = ("*.masked_spec_embed", "*.num_batches_tracked", "*.embed_positions.inv_freq")
LAYERS = {GRAPH: "num_hidden_layers"}

_SPACES = "clean_up_tokenization_spaces"
_WINDOW_S = Decoding.model_fields["chunk_length_s"].default


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config values that determine the graph besides the weights' shapes."""
    whole = construct.config(config)
    names = (
        *("model_type", "hidden_act", "feat_extract_activation", "layer_norm_eps"),
        *("num_attention_heads", "feat_extract_norm", "do_stable_layer_norm"),
        *("conv_stride", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups"),
        *("num_buckets", "max_bucket_distance", "position_embeddings_type"),
        *("rotary_embedding_base", "left_max_position_embeddings"),
        *("right_max_position_embeddings", "adapter_stride", "adapter_act"),
        *("normalize_samples", "output_norm", "head_widths"),
    )
    values = {name: getattr(whole, name, None) for name in names}
    return {**values, "encoder_config": config.get("encoder_config")}


def prefix(config: dict[str, Any]) -> str:
    """Return how the names of the encoder's parameters begin."""
    return KINDS[config["model_type"]].prefix


def derived(config: dict[str, Any]) -> Mapping[str, Sequence[Derivation]]:
    """Return the forms in which kernels with a weight norm, batch norms and heads may be stored."""
    kind = KINDS[config["model_type"]]
    own = forms.derived(kind.prefix, kind.norm, config["num_hidden_layers"])
    return {**own, **kind.head(config)}


def skeleton(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Create the transformers model of a config on the `meta` device, without weights.

    Raises:
        CheckpointError: No CTC model has such a config.
    """
    model: nn.Module = construct.skeleton(config, dtype)
    return model.eval().requires_grad_(False)


def graphs(model: Any, cache: Cache) -> list[Graph]:
    """Return the only graph; nothing is kept from one recording to the next."""
    return [KINDS[model.config.model_type].graph(model)]


def device_graphs(
    model: Any,
    rows: Sequence[int],
    *,
    narrow: bool = False,
) -> list[Graph | LayeredGraph]:
    """Return the only graph, whole."""
    return [*graphs(model, "static")]


def assemble(
    folder: Path,
    functions: Mapping[str, GraphFunction],
    cache_dtype: torch.dtype = torch.float32,
    *,
    narrow: bool = False,
) -> engine.GraphCtc:
    """Make a model of the built graph and the config in `folder`.

    Args:
        folder: The artifact, for the config in it.
        functions: The built graph by name.
        cache_dtype: Not used: there is no cache.
        narrow: Not used either.
    """
    return engine.assemble(folder, functions)


def attach_engine(model: Any, folder: Path) -> None:
    """Give a skeleton with weights an engine; its forward stays transformers'."""
    engine.attach(model)


def open_original(folder: Path, state: dict[str, Tensor] | None = None) -> Any:
    """Open the original in float32 in transformers: the reference for every comparison.

    With `state`, only the config is read from the folder.
    """
    return construct.original(folder, state).eval()


def processor(folder: Path) -> construct.Processor:
    """Open the feature extractor and tokenizer.

    Raises:
        CheckpointError: They cannot be read, or do not fit the config beside them.
    """
    loaded = construct.processor(folder)
    _require_fit(folder, loaded, construct.config_of(folder))
    return loaded


def check_processor(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a tokenizer that belongs to another model."""
    _require_fit(folder, construct.processor(folder), construct.config(config))


def _require_fit(folder: Path, loaded: construct.Processor, config: Any) -> None:
    wrong = list(loaded.tokens.disagreements(config.vocab_size, config.pad_token_id))
    if wrong:
        msg = f"{folder}: the tokenizer is another model's: {'; '.join(wrong)}"
        raise CheckpointError(msg)


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Return `tokenizer.json`, and the settings beside it if they leave spaces to the loader.

    Raises:
        RecipeError: transformers.js has no such models.
    """
    kind = construct.config_of(folder).model_type
    if kind not in IN_JAVASCRIPT:
        msg = (
            f"layout: transformers.js has no pipeline for {kind} models: it has one for "
            f"{', '.join(IN_JAVASCRIPT)}"
        )
        raise RecipeError(msg)
    tokens = construct.processor(folder).tokens
    files = {FAST: tokenizer_json(tokens)}
    path = folder / TOKENIZER
    settings = read_json(path) if is_regular_file(path) else {}
    cleaned = tokens.alphabet().cleaned
    if settings.get(_SPACES) != cleaned:  # transformers.js would remove some by default
        told = {**settings, _SPACES: cleaned}
        files[TOKENIZER] = json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n"
    return files


def sampling_rate(processor: construct.Processor) -> int:
    """Return the sampling rate in Hz that `transcribe` expects."""
    rate: int = processor.feature_extractor.sampling_rate
    return rate


def window(processor: construct.Processor) -> int:
    """Return the samples in a chunk of the usual length; longer recordings are cut into several."""
    return int(_WINDOW_S * sampling_rate(processor))


def vocabulary(processor: construct.Processor) -> int:
    """Return the number of tokens that have text."""
    return len(processor.alphabet.spelled)


def configs(model: Any) -> Configs:
    """Return an open model's config, by file name."""
    return {construct.CONFIG: model.config.to_dict()}


def text_language(configs: Configs, decoding: Decoding, spoken: str | None) -> str | None:
    """Return the one of many languages that a model is of, or else that of the recordings."""
    return configs[construct.CONFIG].get(TARGET) or spoken


def language_code(configs: Configs, name: str) -> str | None:
    """Return the only language of a model that was one of many; None for any other model.

    Raises:
        RecipeError: The name means another language.
    """
    own = configs[construct.CONFIG].get(TARGET)
    if own is None or matching(name, [own]):
        return own
    msg = f"the model is of the language {own!r:.40} alone, not of {name!r:.40}"
    raise RecipeError(msg)


def check_decoding(configs: Configs, decoding: Decoding) -> None:
    """Check the options: a model keeps its language, and a chunk is longer than its strides.

    Raises:
        RecipeError: The model lacks an option or the language, or no frame of a chunk would be its
            own.
    """
    config = construct.config(dict(configs[construct.CONFIG]))
    rate = configs.get(construct.EXTRACTOR, {}).get("sampling_rate", 16_000)
    ratio = input_of(config).ratio(config)
    check_options(vars(decoding), configs[construct.CONFIG].get(TARGET), rate, ratio)


def limit_tokens(model: Any, tokens: int) -> None:
    """Ignore the limit: a recording has as many frames as it has."""


def force_tokens(model: Any, tokens: int) -> bool:
    """Return False: the time depends only on the audio's length."""
    return False
