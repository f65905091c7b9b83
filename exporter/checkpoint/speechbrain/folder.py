"""Open a SpeechBrain folder: its tensors by the names of the model, its files in our form."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from exporter.checkpoint.companions import refuse_foreign
from exporter.checkpoint.files import CONFIG
from exporter.checkpoint.shards import file_infos
from exporter.checkpoint.speechbrain import (
    ENCODER,
    EXTRACTOR,
    HEAD,
    MARK,
    SMALL,
    TOKENIZER,
    WEIGHTS,
    hyperparams,
    missing,
)
from exporter.checkpoint.speechbrain.hyperparams import TEXT_ENCODER, Hyperparams
from exporter.checkpoint.speechbrain.tokens import Vocabulary, sentencepiece, text_encoder
from exporter.errors import CheckpointError
from exporter.families import read_config
from exporter.formats.config_json import is_regular_file, read_json
from exporter.formats.tensor_io import TensorInfo

MODEL_TYPE = "speechbrain-wav2vec2-ctc"
_FAMILY, _OWN_TYPE = "ctc", "wav2vec2"
_STORED, _PREFIX = "model.", "wav2vec2."
_NETWORK, _PROJECTION, _LINEAR, _NORM = "enc.", "lm_head", "linear", "bn"
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class SpeechBrainFolder:
    """A folder's contents as a checkpoint's.

    Attributes:
        config: The content of `config.json` that artifacts have.
        tensors: The stored tensors by the names of the family's model, with batch norms beside the
            linear layers whose outputs they normalise.
        companions: The files that the companions are made of, by the companions' names.
        converted: The content of the companions.
    """

    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    companions: Mapping[str, Path]
    converted: Mapping[str, bytes]


def opened(folder: Path, *, allow_pickle: bool) -> SpeechBrainFolder:
    """Read a folder's description, its tokenizer, and the headers of its weights.

    Args:
        folder: The folder, with all files that were downloaded.
        allow_pickle: Read the weights, which SpeechBrain always pickles.

    Raises:
        CheckpointError: A file is missing, damaged, or says what is not known.
    """
    refuse_foreign(folder, (*SMALL, *WEIGHTS))
    known = hyperparams.read(folder / MARK)
    _require_all(folder)
    read = text_encoder if known.tokenizer == TEXT_ENCODER else sentencepiece
    vocabulary = read(folder / TOKENIZER)
    _require_size(folder, vocabulary, known)
    extractor = _extractor(folder, known)
    config = _config(folder, known, normalized=extractor.pop("do_normalize"))
    contents: dict[str, Mapping[str, Any]] = {
        CONFIG: config,
        EXTRACTOR: {**extractor, "do_normalize": False},
        "vocab.json": vocabulary.tokens,
        "tokenizer_config.json": vocabulary.settings(known.blank),
    }
    sources = (CONFIG, EXTRACTOR, TOKENIZER, MARK)
    return SpeechBrainFolder(
        config=config,
        tensors=dict(_tensors(folder, known, allow_pickle=allow_pickle)),
        companions={name: folder / file for name, file in zip(contents, sources, strict=True)},
        converted={name: _text(values) for name, values in contents.items()},
    )


def _require_all(folder: Path) -> None:
    """Raise CheckpointError if a needed file is missing."""
    lacking = missing([name for name in (*SMALL, *WEIGHTS) if is_regular_file(folder / name)])
    if not lacking:
        return
    msg = f"{folder}: missing {', '.join(lacking)}, which a SpeechBrain model is read from"
    own = [name for name in lacking if name in (CONFIG, EXTRACTOR)]
    if own:
        msg += (
            f".\nCopy from the encoder that {MARK} names in `wav2vec2_hub`: "
            f"hf download ORG/NAME {' '.join(own)} --local-dir {quote(str(folder))}"
        )
    raise CheckpointError(msg)


def _require_size(folder: Path, vocabulary: Vocabulary, known: Hyperparams) -> None:
    count, last = len(vocabulary.tokens), max(vocabulary.tokens.values(), default=-1)
    if count != known.outputs or last != known.outputs - 1:  # no two have one number
        msg = (
            f"{folder / TOKENIZER}: {count} tokens up to number {last}, and {MARK} has "
            f"{known.outputs} outputs: it is another model's"
        )
        raise CheckpointError(msg)


def _extractor(folder: Path, known: Hyperparams) -> dict[str, Any]:
    """Return the feature extractor's settings, which say whether samples are normalised."""
    path = folder / EXTRACTOR
    settings = read_config(path, _FAMILY)
    if settings["sampling_rate"] != known.sampling_rate:
        msg = (
            f"{path}: sampling_rate is {settings['sampling_rate']}, and {MARK} has "
            f"{known.sampling_rate}"
        )
        raise CheckpointError(msg)
    return settings


def _config(folder: Path, known: Hyperparams, *, normalized: bool) -> dict[str, Any]:
    """Return the config of the whole model: the encoder's, and what is around it."""
    path = folder / CONFIG
    kind = read_json(path).get("model_type")
    if kind != _OWN_TYPE:
        msg = f"{path}: model_type {kind!r:.60}: a SpeechBrain model's is {_OWN_TYPE}"
        raise CheckpointError(msg)
    encoder = read_config(path, _FAMILY)
    return {
        **encoder,
        "model_type": MODEL_TYPE,
        "architectures": ["SpeechBrainForCTC"],
        "vocab_size": known.outputs,
        "pad_token_id": known.blank,
        "normalize_samples": normalized,
        "output_norm": known.output_norm,
        "head_widths": [layer.width for layer in known.layers],
    }


def _tensors(
    folder: Path, known: Hyperparams, *, allow_pickle: bool
) -> Iterator[tuple[str, TensorInfo]]:
    encoder = folder / ENCODER
    for name, info in file_infos(encoder, allow_pickle=allow_pickle).items():
        if not name.startswith(_STORED):
            msg = f"{encoder}: the tensor {name:.80} is not SpeechBrain's: names begin with model."
            raise CheckpointError(msg)
        yield _PREFIX + name.removeprefix(_STORED), info
    head = folder / HEAD
    stored = file_infos(head, allow_pickle=allow_pickle)
    names = dict(_head_names(known))
    lacking = [name for name in names if name not in stored]
    if lacking or len(names) < sum(not name.endswith(_COUNT) for name in stored):
        other = next((name for name in stored if name not in names), "nothing")
        told = f"{lacking[0]} is missing" if lacking else f"{other:.80} is there too"
        msg = f"{head}: the tensors are not those of the head in {MARK}: {told}"
        raise CheckpointError(msg)
    yield from ((own, stored[name]) for name, own in names.items())


def _head_names(known: Hyperparams) -> Iterator[tuple[str, str]]:
    """Yield the name of each tensor of the head as it is stored, and in the model."""
    for number, layer in enumerate(known.layers, start=1):
        for leaf in ("weight", "bias"):
            yield f"0.{layer.linear}.w.{leaf}", f"{_NETWORK}{_LINEAR}{number}.w.{leaf}"
        if layer.norm is not None:
            for leaf in _NORM_TENSORS:
                yield f"0.{layer.norm}.norm.{leaf}", f"{_NETWORK}{_NORM}{number}.norm.{leaf}"
    for leaf in ("weight", "bias"):
        yield f"1.w.{leaf}", f"{_PROJECTION}.{leaf}"


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n"
