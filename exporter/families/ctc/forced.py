"""Compare a CTC model's frames: without a decoder, nothing is given but the samples."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exporter.families.ctc.decoding.transcribe import features_of
from exporter.families.ctc.engine import logits_of
from exporter.families.forcing import Forced, observed
from exporter.families.graph import GraphFunction
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio

_FRONT = "feature_extractor."


def runs_once(_module: str) -> bool:
    """Return True: every module runs once per recording."""
    return True


def cache_of(_module: str) -> None:
    """Return None: there is no cache."""
    return


def static_graph(_module: str) -> str:
    """Return the only graph."""
    return "model"


def keeps_int8(_quantized: Collection[str]) -> bool:
    """Return False: nothing is kept."""
    return False


def cache_heads(_model: Any) -> int:
    """Return 1, which nothing is split by."""
    return 1


def window_features(processor: Any, sounds: Sequence[Audio]) -> Tensor:
    """Return the inputs of recordings of equal length: [recordings, ...]."""
    extractor, fewest = processor.feature_extractor, processor.first_frame
    compute = processor.input.original_features
    return torch.cat([compute(extractor, sound, fewest) for sound in sounds])


def own_features(model: Any, processor: Any, sounds: Sequence[Audio]) -> Tensor:
    """Return the inputs that `transcribe` gives a model for such recordings."""
    return torch.cat([features_of(model, processor.feature_extractor, sound) for sound in sounds])


def forced_prompt(_model: Any, _decoding: Decoding) -> list[int]:
    """Return no tokens: there is no decoder."""
    return []


def most_tokens(_model: Any) -> int:
    """Return 0: there is no decoder."""
    return 0


def forced(model: Any, features: Tensor, _tokens: Tensor, _calls: Sequence[int]) -> Forced:
    """Return the logits of recordings, which are computed one by one.

    Args:
        model: A model from `assemble`, `attach_engine` or `open_original`.
        features: The inputs, float32 [recordings, ...].

    Returns:
        Logits float32 [recordings, frames, vocabulary]; of an original, also what the norms behind
        the front end gave.
    """
    whole = not hasattr(model, "engine")
    norms = [name for name, each in model.named_modules() if _is_seen(name, each)] if whole else []
    with torch.inference_mode(), observed(model, norms) as seen:
        logits = [logits_of(model, each) for each in features.to(model.device).split(1)]
    return Forced(torch.cat(logits), {name: torch.cat(parts) for name, parts in seen.items()})


def _is_seen(name: str, module: nn.Module) -> bool:
    """Return whether a module is a norm behind the front end, whose own states are too large."""
    return isinstance(module, nn.LayerNorm) and not name.partition(".")[2].startswith(_FRONT)


def forced_rows(model: Any, features: Tensor, tokens: Tensor, _prompt: int, beams: int) -> Tensor:
    """Return the logits of each recording once for each hypothesis: nothing depends on these."""
    return forced(model, features, tokens, ()).logits.repeat_interleave(beams, 0)


def forced_others(
    _model: Any,
    _graphs: Mapping[str, GraphFunction],
    _features: Tensor,
    _tokens: Tensor,
    _calls: Sequence[int],
) -> dict[str, Forced]:
    """Return nothing: all loaders use the same graph."""
    return {}
