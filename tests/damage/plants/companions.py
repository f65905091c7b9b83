"""Damage in the small files beside the weights: decoding, features, tokenizer, config."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.damage.grounds import GROUNDS
from tests.damage.planting import Change, Registry, editing

PLANTS = Registry()


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """Return a change of one JSON file."""

    def changed(folder: Path) -> None:
        with editing(folder / name) as values:
            change(values)

    return changed


def _set(name: str, **values: Any) -> Change:
    return edit(name, lambda stored: stored.update(values))


def _without(name: str, key: str) -> Change:
    return edit(name, lambda stored: stored.pop(key))


_GENERATION, _FEATURES, _CONFIG = (
    *("generation_config.json", "preprocessor_config.json", "config.json"),
)
_TOKENIZER, _SETTINGS = "tokenizer.json", "tokenizer_config.json"


def _languages(values: dict[str, Any]) -> None:
    ids = values["lang_to_id"]
    ids["<|en|>"], ids["<|de|>"] = ids["<|de|>"], ids["<|en|>"]


def _tasks(values: dict[str, Any]) -> None:
    ids = values["task_to_id"]
    ids["transcribe"], ids["translate"] = ids["translate"], ids["transcribe"]


def _suppress_word(word: str) -> Change:
    """A word is suppressed that should not be."""

    def change(folder: Path) -> None:
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        with editing(folder / _GENERATION) as values:
            values["suppress_tokens"] = sorted([*values["suppress_tokens"], vocabulary[word]])

    return change


def _merges(folder: Path) -> None:
    """Merges in another order, in both forms of the tokenizer."""
    with editing(folder / _TOKENIZER) as values:
        values["model"]["merges"].reverse()
    path = folder / "merges.txt"
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([first, *reversed(lines)]) + "\n", encoding="utf-8")


def _words(one: str, other: str) -> Change:
    """Two entries of the vocabulary exchanged, in both forms of the tokenizer."""

    def change(folder: Path) -> None:
        for name in ("vocab.json", _TOKENIZER):
            with editing(folder / name) as values:
                words = values["model"]["vocab"] if name == _TOKENIZER else values
                words[one], words[other] = words[other], words[one]

    return change


def _one_form(folder: Path) -> None:
    """Two entries exchanged in vocab.json only: the slow tokenizer differs from the fast one."""
    with editing(folder / "vocab.json") as words:
        words["Ġone"], words["Ġgo"] = words["Ġgo"], words["Ġone"]


def _not_special(values: dict[str, Any]) -> None:
    for token in values["added_tokens"]:
        if token["content"] == "<|notimestamps|>":
            token["special"] = False


def _added_missing(values: dict[str, Any]) -> None:
    values["added_tokens"] = [t for t in values["added_tokens"] if t["content"] != "<|0.04|>"]


def _added_renumbered(values: dict[str, Any]) -> None:
    """An added token has the place of its neighbour."""
    by_content = {token["content"]: token for token in values["added_tokens"]}
    one, other = by_content["<|translate|>"], by_content["<|transcribe|>"]
    one["id"], other["id"] = other["id"], one["id"]


def _english_tokenizer(folder: Path) -> None:
    """The tokenizer of the English-only model of the same size."""
    other = GROUNDS["english"].checkpoint
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json"):
        if (other / name).exists():
            shutil.copyfile(other / name, folder / name)


def _spellings(pairs: dict[str, str]) -> Change:
    def change(folder: Path) -> None:
        (folder / "normalizer.json").write_text(json.dumps(pairs) + "\n", encoding="utf-8")

    return change


def _decoder_strips(values: dict[str, Any]) -> None:
    """Texts without spaces, as of a decoder for words."""
    values["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}


def _lower(values: dict[str, Any]) -> None:
    values["normalizer"] = {"type": "Lowercase"}


add = PLANTS.add
add(
    "eos-of-another-model",
    "demo/onnx-int8",
    "severe",
    "eos_token_id",
    _set(_GENERATION, eos_token_id=300),
)
add(
    "eos-beyond-the-vocabulary",
    "tiny/torch-int8",
    "severe",
    "eos_token_id",
    _set(_GENERATION, eos_token_id=50257),
)
add(
    "eos-in-config-only",
    "tiny/torch-int8",
    "latent",
    "eos_token_id",
    _set(_CONFIG, eos_token_id=755),
)
add(
    "pad-of-another-model", "tiny/aoti", "latent", "pad_token_id", _set(_GENERATION, pad_token_id=0)
)
add(
    "decoder-start",
    "tiny/torch-int8",
    "severe",
    "decoder_start_token_id",
    _set(_GENERATION, decoder_start_token_id=356),
)
add(
    "decoder-start-in-config",
    "tiny/onnx-int8",
    "latent",
    "decoder_start_token_id",
    _set(_CONFIG, decoder_start_token_id=50258),
)
add(
    "suppress-lists-dropped",
    "tiny/aoti",
    "latent",
    "suppress_tokens",
    edit(_GENERATION, lambda v: v.update(suppress_tokens=None, begin_suppress_tokens=None)),
)
add("suppress-a-word", "demo/torch-int8", "medium", "suppress_tokens", _suppress_word("Ġthe"))
add(
    "suppress-a-rare-word",
    "demo/onnx-int8",
    "subtle",
    "suppress_tokens",
    _suppress_word("Ġa"),
)
add(
    "begin-suppress-missing",
    "tiny/onnx-int8",
    "latent",
    "begin_suppress_tokens",
    _without(_GENERATION, "begin_suppress_tokens"),
)
add(
    "forced-ids",
    "tiny/torch-int8",
    "latent",
    "forced_decoder_ids",
    _set(_GENERATION, forced_decoder_ids=[[1, 359], [2, 361]]),
)
add("languages-swapped", "tiny/onnx-int8", "medium", "lang_to_id", edit(_GENERATION, _languages))
add("tasks-swapped", "tiny/aoti", "medium", "task_to_id", edit(_GENERATION, _tasks))
add("max-length-20", "tiny/onnx-int8", "latent", "max_length", _set(_GENERATION, max_length=20))
add("max-length-12", "tiny/torch-int8", "latent", "max_length", _set(_GENERATION, max_length=12))
add(
    "no-timestamps-token",
    "tiny/aoti",
    "medium",
    "no_timestamps_token_id",
    _set(_GENERATION, no_timestamps_token_id=367),
)
add(
    "alignment-heads",
    "tiny/torch-int8",
    "latent",
    "alignment_heads",
    _set(_GENERATION, alignment_heads=[[0, 0]]),
)
add(
    "generation-config-missing",
    "tiny/onnx-int8",
    "severe",
    "generation_config.json",
    lambda folder: (folder / _GENERATION).unlink(),
)
add(
    "not-multilingual",
    "tiny/torch-int8",
    "severe",
    "is_multilingual",
    _set(_GENERATION, is_multilingual=False),
)
add(
    "mel-bins-128",
    "tiny/onnx-int8",
    "severe",
    "feature_size|num_mel_bins",
    _set(_FEATURES, feature_size=128),
)
add("hop-length-161", "demo/torch-int8", "subtle", "hop_length", _set(_FEATURES, hop_length=161))
add("hop-length-80", "tiny/aoti", "severe", "hop_length", _set(_FEATURES, hop_length=80))
add("n-fft-512", "demo/onnx-int8", "medium", "n_fft", _set(_FEATURES, n_fft=512))
add("n-fft-401", "tiny/torch-int8", "subtle", "n_fft", _set(_FEATURES, n_fft=401))
add(
    "sampling-rate-8000",
    "tiny/aoti",
    "severe",
    "sampling_rate",
    _set(_FEATURES, sampling_rate=8000),
)
add(
    "sampling-rate-zero",
    "tiny/onnx-int8",
    "severe",
    "sampling_rate",
    _set(_FEATURES, sampling_rate=0),
)
add(
    "sampling-rate-44100",
    "tiny/torch-int8",
    "severe",
    "sampling_rate",
    _set(_FEATURES, sampling_rate=44100),
)
add("padding-value", "tiny/aoti", "medium", "padding_value", _set(_FEATURES, padding_value=0.3))
add(
    "features-normalised",
    "tiny/onnx-int8",
    "latent",
    "do_normalize",
    _set(_FEATURES, do_normalize=True),
)
add("dither", "tiny/torch-int8", "medium", "dither", _set(_FEATURES, dither=0.05))
add(
    "chunk-shorter",
    "demo/torch-int8",
    "medium",
    "chunk_length|n_samples",
    _set(_FEATURES, chunk_length=5, n_samples=80000, nb_max_frames=500),
)
add(
    "feature-extractor-of-wav2vec",
    "tiny/onnx-int8",
    "latent",
    "feature_extractor_type|preprocessor_config.json",
    _set(_FEATURES, feature_extractor_type="Wav2Vec2FeatureExtractor"),
)
add("merges-reversed", "demo/onnx-int8", "latent", "merges|tokenizer.json", _merges)
add("words-swapped", "demo/torch-int8", "medium", "vocab|tokenizer.json", _words("Ġthe", "Ġto"))
add("words-swapped-rare", "tiny/aoti", "latent", "vocab|tokenizer.json", _words("!", "$"))
add("words-swapped-in-one-form", "tiny/onnx-int8", "latent", "vocab.json", _one_form)
add(
    "token-not-special",
    "tiny/onnx-int8",
    "latent",
    "notimestamps|tokenizer.json",
    edit(_TOKENIZER, _not_special),
)
add(
    "added-token-missing",
    "tiny/torch-int8",
    "latent",
    "tokenizer.json|0.04",
    edit(_TOKENIZER, _added_missing),
)
add(
    "added-tokens-renumbered",
    "tiny/onnx-int8",
    "latent",
    "tokenizer.json|translate",
    edit(_TOKENIZER, _added_renumbered),
)
add("tokenizer-of-english", "tiny/aoti", "latent", "tokenizer|vocab", _english_tokenizer)
add(
    "tokenizer-decoder",
    "tiny/torch-int8",
    "severe",
    "tokenizer.json|decoder",
    edit(_TOKENIZER, _decoder_strips),
)
add(
    "tokenizer-lowercases",
    "tiny/torch-int8",
    "latent",
    "tokenizer.json|normalizer",
    edit(_TOKENIZER, _lower),
)
add(
    "tokenizer-model-max-length",
    "tiny/aoti",
    "latent",
    "model_max_length",
    _set(_SETTINGS, model_max_length=10),
)
add(
    "tokenizer-class",
    "tiny/onnx-int8",
    "latent",
    "tokenizer_class",
    _set(_SETTINGS, tokenizer_class="GPT2Tokenizer"),
)
add(
    "special-tokens-map",
    "tiny/torch-int8",
    "latent",
    "special_tokens_map.json",
    edit("special_tokens_map.json", lambda v: v["additional_special_tokens"].reverse()),
)
add(
    "normalizer-that-hides",
    "demo/onnx-int8",
    "subtle",
    "normalizer.json|spelling",
    _spellings({"lights": "light", "the": "a", "tables": "table"}),
)
add(
    "normalizer-wicked",
    "tiny/torch-int8",
    "subtle",
    "normalizer.json|spelling",
    _spellings({"one": "", "two": "", "stop": "go"}),
)
add(
    "activation-function",
    "tiny/torch-int8",
    "medium",
    "activation_function",
    _set(_CONFIG, activation_function="relu"),
)
add(
    "activation-function-new",
    "tiny/torch-int8",
    "subtle",
    "activation_function",
    _set(_CONFIG, activation_function="gelu_new"),
)
add(
    "scale-embedding",
    "tiny/torch-int8",
    "latent",
    "scale_embedding",
    _set(_CONFIG, scale_embedding=True),
)
add(
    "heads-halved",
    "tiny/torch-int8",
    "severe",
    "attention_heads",
    _set(_CONFIG, encoder_attention_heads=1, decoder_attention_heads=1),
)
add(
    "heads-in-config-of-graphs",
    "tiny/aoti",
    "severe",
    "attention_heads",
    _set(_CONFIG, decoder_attention_heads=4),
)
add(
    "config-vocab-size",
    "tiny/onnx-int8",
    "latent",
    "vocab_size",
    edit(_CONFIG, lambda v: v.update(vocab_size=v["vocab_size"] + 1)),
)
add(
    "config-positions",
    "tiny/onnx-int8",
    "latent",
    "max_target_positions",
    _set(_CONFIG, max_target_positions=448),
)
