"""What opens a CTC artifact reads the files of its folder as transformers and the family do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2CTCTokenizer

from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from exporter.families.ctc import construct
from exporter.formats.config_json import read_json
from exporter.runtime.ctc.features import input_of, of_banks
from exporter.runtime.ctc.tokens import read_tokens
from tests.support.tiny_ctc import KINDS, make_ctc, tones

FAMILY = FAMILIES["ctc"]
LENGTHS = (1, 560, 5_000, 16_001)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_the_familys(kind: str, tmp_path: Path) -> None:
    folder = make_ctc(tmp_path / kind, kind)
    processor, whole = FAMILY.processor(folder), construct.config_of(folder)
    source = input_of(*(read_json(folder / n) for n in ("config.json", "preprocessor_config.json")))
    assert source.name == processor.input.name
    assert source.rate == FAMILY.sampling_rate(processor)
    assert source.ratio == processor.input.ratio(whole)
    for samples in LENGTHS:
        sound = tones(1.1)[:samples]
        theirs = processor.input.features(processor.feature_extractor, sound, processor.first_frame)
        assert np.array_equal(source(sound), theirs.numpy())


@pytest.mark.parametrize("samples", [560, 720, 719, 16_001, 100_000])
def test_filter_banks_are_transformers_own_bits(samples: int) -> None:
    extractor = SeamlessM4TFeatureExtractor()
    sound = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    made = extractor(sound, sampling_rate=16_000, return_tensors="np")
    heard = int(made.attention_mask[0].sum())
    assert np.array_equal(of_banks(sound, 560, 80), made.input_features[:, :heard])


def no_added(folder: Path) -> None:
    """As checkpoints of early transformers are: without the tokens that were added."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["added_tokens_decoder"]
    path.write_text(json.dumps(settings))


def added_apart(folder: Path) -> None:
    no_added(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<x>": 16, "<y>": 17}))


def only_special(folder: Path) -> None:
    """A map of special tokens counts where the config names no added ones."""
    no_added(folder)
    path = folder / "special_tokens_map.json"
    special = {**json.loads(path.read_text()), "additional_special_tokens": ["a", "<z>"]}
    path.write_text(json.dumps(special))


def none_at_all(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()


def settled(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


FORMS: dict[str, Callable[[Path], None]] = {
    "as saved": lambda _: None,
    "no added": no_added,
    "added apart": added_apart,
    "only special": only_special,
    "none at all": none_at_all,
    "lower": settled(do_lower_case=True),
    "cleaned": settled(clean_up_tokenization_spaces=True),
    "no end of text": settled(eos_token=None),
    "another blank": settled(pad_token="<s>"),
    "another space": settled(replace_word_delimiter_char="_"),
    "no delimiter": settled(word_delimiter_token=None),
    "more special": settled(additional_special_tokens=["b", "<w>"]),
    "an object": settled(unk_token={"__type": "AddedToken", "content": "c", "lstrip": False}),
}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_those_of_transformers(form: str, tmp_path: Path) -> None:
    folder = make_ctc(tmp_path / "checkpoint")
    FORMS[form](folder)
    theirs: Any = Wav2Vec2CTCTokenizer.from_pretrained(folder)
    ours = read_tokens(folder, pieces=False)
    assert ours.words == theirs.get_vocab()
    # Since release 5 the delimiter is one of them, which is spelled nevertheless.
    assert {*ours.special} == {*theirs.all_special_tokens} - {theirs.word_delimiter_token}
    assert ours.blank == theirs.pad_token
    assert str(ours.delimiter) == theirs.word_delimiter_token  # of none it makes the word
    alphabet = ours.alphabet()
    assert alphabet.lower == bool(theirs.do_lower_case)
    assert alphabet.cleaned == bool(theirs.clean_up_tokenization_spaces)
    silent = {*theirs.all_special_tokens} - {theirs.word_delimiter_token} | {theirs.pad_token}
    assert {*alphabet.spelled} == {
        n for word, n in theirs.get_vocab().items() if word not in silent
    }


WRONG: dict[str, tuple[str, Any]] = {
    "conv_stride": ("config.json", [5, 0]),
    "conv_kernel is no list": ("config.json", {"conv_kernel": 3}),
    "different lengths": ("config.json", {"conv_kernel": [3]}),
    "sampling_rate is": ("preprocessor_config.json", {"sampling_rate": "16000"}),
    "needs Wav2Vec2": ("preprocessor_config.json", {"feature_extractor_type": "Whisper"}),
}


@pytest.mark.parametrize("told", WRONG)
def test_configs_of_other_models_are_refused(told: str, tmp_path: Path) -> None:
    folder = make_ctc(tmp_path / "checkpoint")
    file, change = WRONG[told]
    change = {told: change} if isinstance(change, list) else change
    values = {
        n: read_json(folder / n) | (change if n == file else {})
        for n in ("config.json", "preprocessor_config.json")
    }
    with pytest.raises(CheckpointError, match=told):
        input_of(*values.values())
