"""Construct transformers' CTC models, their configs and processors, from checked values only.

transformers is never given a folder whose configs it would read itself: they may name packages and
repositories whose code it runs. The attention is always named, and the network never used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from exporter.errors import CheckpointError, exhausted
from exporter.families.ctc.config_limits import CONFIGS
from exporter.families.ctc.derived import unmask, without_batch_norm, without_weight_norm
from exporter.families.ctc.kinds import KINDS, first_frame
from exporter.families.offline import offline
from exporter.formats.config_json import held, is_regular_file, read_json

CONFIG, EXTRACTOR = "config.json", "preprocessor_config.json"
VOCABULARY = "vocab.json"
_TOKENIZER, _SPECIAL, _ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_ATTENTION = "sdpa"


@dataclass(frozen=True)
class Processor:
    """transformers' feature extractor and tokenizer, and the samples that a first frame takes."""

    feature_extractor: Any
    tokenizer: Any
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
    own = KINDS[checked["model_type"]].config_class
    try:
        return own.from_dict(
            {**checked, "mask_time_prob": 0.0, "mask_feature_prob": 0.0},
            attn_implementation=_ATTENTION,
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
    try:
        with torch.device("meta"), offline():
            model = KINDS[whole.model_type].model_class._from_config(
                whole, attn_implementation=_ATTENTION, dtype=dtype
            )
    except (ValueError, RuntimeError) as error:
        if exhausted(error):
            raise
        msg = f"{CONFIG}: {str(error).splitlines()[0][:200]}: this is no CTC model's"
        raise CheckpointError(msg) from error
    unmask(model)
    without_weight_norm(model)
    without_batch_norm(model)
    return model


def original(folder: Path, state: dict[str, Tensor] | None) -> Any:
    """Return a checkpoint's model in float32, with the weights of the folder or of `state`.

    Its weight norm is computed once, by torch, not in every call.
    """
    weights: dict[str, Any] = {"state_dict": state}
    if state is None:
        weights = {"use_safetensors": True, "local_files_only": True}
    whole = config_of(folder)
    with offline():
        model = KINDS[whole.model_type].model_class.from_pretrained(
            folder if state is None else None,
            config=whole,
            attn_implementation=_ATTENTION,
            dtype=torch.float32,
            trust_remote_code=False,
            **weights,
        )
    unmask(model)
    without_weight_norm(model)
    return model


def processor(folder: Path) -> Processor:
    """Return the feature extractor and the tokenizer.

    Raises:
        CheckpointError: They cannot be read.
    """
    extractor = held(CONFIGS[EXTRACTOR], read_json(folder / EXTRACTOR), str(folder / EXTRACTOR))
    extractor.pop("feature_extractor_type", None)
    settings = _checked(folder / _TOKENIZER)
    settings.pop("tokenizer_class", None)
    _checked(folder / _SPECIAL)
    files = {
        argument: str(folder / name)
        for argument, name in _tokenizer_files().items()
        if is_regular_file(folder / name)
    }
    try:
        with offline():
            # `from_pretrained` would read the config and whatever else it finds in the folder.
            tokenizer = Wav2Vec2CTCTokenizer._from_pretrained(
                files, str(folder / "-"), settings, local_files_only=True, _is_local=True
            )
            tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = str(folder)
            made = Wav2Vec2FeatureExtractor(**extractor)
    except Exception as error:  # whatever the files make transformers raise
        if exhausted(error):
            raise
        reason = (str(error).splitlines() or [repr(error)])[0]
        msg = f"{folder}: the tokenizer or feature extractor cannot be read ({reason[:200]})"
        raise CheckpointError(msg) from error
    return Processor(made, tokenizer, first_frame(config_of(folder)))


def _checked(path: Path) -> dict[str, Any]:
    """Return what is used of a tokenizer's config, which a folder may lack."""
    if not is_regular_file(path):
        return {}
    return held(CONFIGS[path.name], read_json(path), str(path))


def _tokenizer_files() -> dict[str, str]:
    """Return the tokenizer's files by transformers' name for each."""
    own: dict[str, str] = Wav2Vec2CTCTokenizer.vocab_files_names
    return {**own, "added_tokens_file": _ADDED, "special_tokens_map_file": _SPECIAL}
