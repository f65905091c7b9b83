"""Folders of SpeechBrain's `EncoderASR` with a wav2vec 2.0 encoder, as checkpoints.

Such a folder describes the model in `hyperparams.yaml`, whose tags SpeechBrain imports and calls.
Here the file is data: a fixed reader takes what it knows, and refuses by name whatever else could
change the computation. Neither SpeechBrain nor hyperpyyaml is imported.
"""

from collections.abc import Collection

from exporter.checkpoint.files import CONFIG, WHOLE

MARK = "hyperparams.yaml"
ENCODER, HEAD, TOKENIZER = "wav2vec2.ckpt", "asr.ckpt", "tokenizer.ckpt"
EXTRACTOR = "preprocessor_config.json"
SMALL = (MARK, CONFIG, EXTRACTOR, TOKENIZER)
"""The files that describe the model."""
WEIGHTS = (ENCODER, HEAD)
"""The files that hold its tensors."""


def is_speechbrain(names: Collection[str]) -> bool:
    """Return True if files with these names are SpeechBrain's, not also transformers'."""
    return MARK in names and not any(name in names for name in WHOLE)


def missing(names: Collection[str]) -> list[str]:
    """Return the files that such a folder needs and that are not among `names`."""
    return [name for name in (*SMALL, *WEIGHTS) if name not in names]
