"""Construct transformers' CTC models, their configs and processors, from checked values only.

transformers is never given a folder whose configs it would read itself: they may name packages and
repositories whose code it runs. The attention is always named, and the network never used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.errors import CheckpointError, exhausted
from exporter.families.ctc.config_limits import CONFIGS
from exporter.families.ctc.decoding.features import Input, Samples
from exporter.families.ctc.derived import unmask, without_batch_norm, without_weight_norm
from exporter.families.ctc.graphs.layers import core
from exporter.families.ctc.graphs.positions import compute_positions
from exporter.families.ctc.kinds import KINDS, Kind
from exporter.families.offline import offline
from exporter.formats.config_json import is_regular_file, read_json
from exporter.formats.config_limits import held
from exporter.runtime.ctc.text import Alphabet
from exporter.runtime.ctc.tokens import (
    ADDED,
    FAST,
    SPECIAL,
    TOKENIZER,
    VOCABULARY,
    Tokens,
    is_small,
    read_tokens,
)

CONFIG, EXTRACTOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class Processor:
    """A feature extractor and tokenizer, the input, and the samples that a first frame takes.

    `tokens` are those of the tokenizer's files, and `alphabet` what frames are spelled with.
    """

    feature_extractor: Any
    tokenizer: Any
    tokens: Tokens
    alphabet: Alphabet
    input: Input
    first_frame: int


def config(values: dict[str, Any], where: str = CONFIG) -> Any:
    """Return a model's config.

    Args:
        values: The content of `config.json`.
        where: The file, for messages.

    Raises:
        CheckpointError: No CTC model has such a config.
    """
    checked = held(CONFIGS[CONFIG], values, where)
    kind = KINDS[checked["model_type"]]
    try:
        return kind.config_class.from_dict(
            {**checked, "mask_time_prob": 0.0, "mask_feature_prob": 0.0},
            attn_implementation=kind.attention,
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        msg = f"{where}: {str(error)[:200]}: this is no CTC model's"
        raise CheckpointError(msg) from error


def config_of(folder: Path) -> Any:
    """Return the config of the model in a folder."""
    return config(read_json(folder / CONFIG), str(folder / CONFIG))


def skeleton(values: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return the model of a config on the `meta` device, without weights."""
    whole = config(values)
    kind = KINDS[whole.model_type]
    try:
        with torch.device("meta"), offline():
            model = kind.model_class._from_config(
                whole, attn_implementation=kind.attention, dtype=dtype
            )
    except (ValueError, RuntimeError) as error:
        if exhausted(error):
            raise
        msg = f"{CONFIG}: {str(error).splitlines()[0][:200]}: this is no CTC model's"
        raise CheckpointError(msg) from error
    unmask(model)
    without_weight_norm(model)
    without_batch_norm(model)
    compute_positions(core(model).encoder)
    if kind.prepare is not None:
        kind.prepare(model)
    return model


def original(folder: Path, state: dict[str, Tensor] | None) -> Any:
    """Return a checkpoint's model in float32, with the weights of the folder or of `state`.

    Its weight norm is computed once, by torch, not in every call.
    """
    whole = config_of(folder)
    kind = KINDS[whole.model_type]
    weights: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    if state is not None:
        weights = {"state_dict": kind.loaded(state)}
    with offline():
        model = kind.model_class.from_pretrained(
            folder if state is None else None,
            config=whole,
            attn_implementation=kind.attention,
            dtype=torch.float32,
            trust_remote_code=False,
            **weights,
        )
    unmask(model)
    without_weight_norm(model)
    if kind.prepare is not None:
        kind.prepare(model)
    return model


def processor(folder: Path) -> Processor:
    """Return the feature extractor and the tokenizer.

    Raises:
        CheckpointError: They cannot be read.
    """
    extractor = held(CONFIGS[EXTRACTOR], read_json(folder / EXTRACTOR), str(folder / EXTRACTOR))
    whole = config_of(folder)
    kind = KINDS[whole.model_type]
    source = kind.input
    found = extractor.pop("feature_extractor_type", Samples.extractor_type)
    if found != source.extractor_type:
        msg = f"{folder / EXTRACTOR}: a {whole.model_type} model needs {source.extractor_type}"
        raise CheckpointError(msg)
    settings = _checked(folder / TOKENIZER)
    settings.pop("tokenizer_class", None)
    _checked(folder / SPECIAL)
    files = {
        argument: str(folder / name)
        for argument, name in _tokenizer_files(kind).items()
        if is_small(folder / name)
    }
    first, name = next(iter(_tokenizer_files(kind).items()))
    if first not in files:
        msg = f"{folder}: {name} is missing: copy it from the model that it was trained from"
        raise CheckpointError(msg)
    try:
        with offline():
            # `from_pretrained` would read the config and whatever else it finds in the folder.
            tokenizer = kind.tokenizer_class._from_pretrained(
                files, str(folder / "-"), settings, local_files_only=True, _is_local=True
            )
            tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = str(folder)
            made = source.extractor(extractor)
    except Exception as error:  # whatever the files make transformers raise
        if exhausted(error):
            raise
        reason = (str(error).splitlines() or [repr(error)])[0]
        msg = f"{folder}: the tokenizer or feature extractor cannot be read ({reason[:200]})"
        raise CheckpointError(msg) from error
    fewest = source.first_frame(whole)
    given = source.features(made, np.zeros(1, np.float32), fewest).shape[2:]
    if given != source.example(whole, 1)[1:]:
        msg = f"{folder / EXTRACTOR}: another model's: it gives {given[0]} numbers for a frame"
        raise CheckpointError(msg)
    tokens = read_tokens(folder, pieces=kind.is_fast)
    return Processor(made, tokenizer, tokens, tokens.alphabet(), source, fewest)


def _checked(path: Path) -> dict[str, Any]:
    """Return what is used of a tokenizer's config, which a folder may lack."""
    if not is_regular_file(path):
        return {}
    return held(CONFIGS[path.name], read_json(path), str(path))


def _tokenizer_files(kind: Kind) -> dict[str, str]:
    """Return the tokenizer's files by transformers' name for each, without its settings.

    These are given as they were checked: transformers would read the file itself.
    """
    form = {"vocab_file": VOCABULARY}
    if kind.is_fast:
        form = {"tokenizer_file": FAST}
    return {
        **form,
        "added_tokens_file": ADDED,
        "special_tokens_map_file": SPECIAL,
    }
