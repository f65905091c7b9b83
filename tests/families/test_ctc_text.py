"""From samples to text as transformers goes there: features, chunks, and the collapse of frames."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, pipeline

from exporter.families import FAMILIES
from exporter.families.ctc.decoding.features import Samples
from exporter.families.ctc.decoding.tokenizer_json import tokenizer_json
from exporter.recognition.load import load_original
from exporter.runtime.ctc.chunks import Cut, chunks, cut_of
from exporter.runtime.ctc.tokens import read_tokens
from tests.support.tiny_ctc import make_ctc, tones

FAMILY = FAMILIES["ctc"]

VOCABULARIES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "capitals": (["<pad>", "<s>", "</s>", "<unk>", "|", *"ABC'"], {}),
    "made small": (["<pad>", "<s>", "</s>", "<unk>", "|", *"ABC"], {"do_lower_case": True}),
    "cleaned": (
        ["|", ".", ",", "'", "s", "n't", "a", "[UNK]", "[PAD]"],
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "clean_up_tokenization_spaces": True},
    ),
    "several letters": (["[PAD]", "ts", "t", "s", "|", "<unk>"], {"pad_token": "[PAD]"}),
    "blank first, bos as blank": (
        ["<s>", "<pad>", "</s>", "<unk>", " ", "a"],
        {"pad_token": "<s>"},
    ),
    "no delimiter": (["<pad>", "<unk>", *"中文字"], {}),
    "another delimiter": (
        ["<pad>", "<unk>", "_", "a", "b"],
        {"word_delimiter_token": "_", "replace_word_delimiter_char": " "},
    ),
}


def tokenizer_of(folder: Path, name: str) -> Wav2Vec2CTCTokenizer:
    words, settings = VOCABULARIES[name]
    path = folder / "vocab.json"
    path.write_text(json.dumps({word: index for index, word in enumerate(words)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(path), **settings)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("name", VOCABULARIES)
def test_text_is_that_of_the_tokenizer(tmp_path: Path, name: str) -> None:
    """After our rule: repeats collapse first, then special tokens are dropped."""
    tokenizer = tokenizer_of(tmp_path, name)
    alphabet = read_tokens(tmp_path, pieces=False).alphabet()
    # Since release 5 the delimiter is one of the special tokens, which is spelled nevertheless.
    delimiter = tokenizer.get_vocab().get(tokenizer.word_delimiter_token)
    silent = set(tokenizer.all_special_ids) - {delimiter}
    source, size = random.Random(0), len(VOCABULARIES[name][0])
    for _ in range(300):
        frames = source.choices(range(size), k=source.randrange(24))
        frames = [token for token in frames for _ in range(source.randrange(1, 4))]
        collapsed = [token for token, _ in itertools.groupby(frames)]
        kept = [token for token in collapsed if token not in silent]
        tokens = alphabet.tokens(frames)
        assert list(tokens) == kept
        assert alphabet.text(tokens) == tokenizer.decode(kept, group_tokens=False)
        if not (silent - {tokenizer.pad_token_id}) & set(frames):
            assert alphabet.text(tokens) == tokenizer.decode(frames)


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("skip", [False, True])
def test_the_file_for_javascript_decodes_alike(tmp_path: Path, name: str, skip: bool) -> None:
    """The library tokenizers reads it; special tokens are skipped or not, which is the same."""
    tokenizer = tokenizer_of(tmp_path, name)
    tokens = read_tokens(tmp_path, pieces=False)
    assert tokens.words == tokenizer.get_vocab()
    alphabet = tokens.alphabet()
    theirs = Tokenizer.from_str(tokenizer_json(tokens).decode())
    source, size = random.Random(0), len(VOCABULARIES[name][0])
    for _ in range(300):
        frames = source.choices(range(size), k=source.randrange(24))
        frames = [token for token in frames for _ in range(source.randrange(1, 4))]
        text = theirs.decode(frames, skip_special_tokens=skip)
        assert text == alphabet.text(alphabet.tokens(frames))


def test_a_special_token_between_equal_letters_keeps_both(tmp_path: Path) -> None:
    tokenizer_of(tmp_path, "capitals")
    alphabet = read_tokens(tmp_path, pieces=False).alphabet()
    assert alphabet.text(alphabet.tokens([5, 5, 1, 5, 0, 5, 3, 6])) == "AAAB"


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("samples", [1, 300, 513, 514, 9000])
def test_features_are_those_of_transformers(do_normalize: bool, samples: int) -> None:
    extractor = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    sound = tones(1.0)[:samples] + np.float32(0.25)
    both = Samples().features, Samples().original_features
    ours, theirs = (made(extractor, sound, 514) for made in both)
    assert torch.equal(ours, theirs)
    assert ours.dtype == torch.float32
    assert ours.shape == (1, max(samples, 514))
    assert not ours[0, samples:].any()


@pytest.mark.parametrize("length", [1, 39, 40, 41, 100, 140, 141, 1000])
@pytest.mark.parametrize("block", [1, 7, 64, 5000])
def test_chunks_cover_a_recording_once(length: int, block: int) -> None:
    sound = np.arange(length, dtype=np.float32)
    blocks = [sound[start : start + block] for start in range(0, length, block)]
    cut = list(chunks(blocks, Cut(40, 8)))
    own = [one.samples[one.left : len(one.samples) - one.right] for one in cut]
    assert np.array_equal(np.concatenate(own), sound)
    assert all(len(one.samples) == 40 for one in cut[:-1])
    assert list(chunks([], Cut(40, 8))) == []


def test_chunks_are_whole_frames() -> None:
    assert cut_of(30.0, None, 16_000, 320) == Cut(480_000, 80_000)
    assert cut_of(0.51, 0.11, 16_000, 320) == Cut(8320, 1920)


@pytest.fixture(scope="module", params=["wav2vec2", "wav2vec2-layer-norm", "hubert"])
def heard(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A checkpoint as our recogniser, and as transformers' own pipeline, with or without a norm."""
    folder = make_ctc(tmp_path_factory.mktemp("heard") / "checkpoint", request.param)
    own = load_original(str(folder), threads=1)
    theirs = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    return {"ours": own, "theirs": theirs}


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.3, 2.0])
def test_a_recording_within_a_chunk_runs_whole(heard: dict[str, Any], seconds: float) -> None:
    sound = tones(seconds, 3)
    (own,) = heard["ours"].transcribe([sound], sampling_rate=16_000)
    assert own.text == heard["theirs"](sound.copy())["text"]


@pytest.mark.parametrize("options", [(1.0, None), (1.0, 0.3), (0.7, 0.0), (0.513, 0.111)])
@pytest.mark.parametrize("seconds", [1.0, 1.01, 1.66, 3.0, 7.31])
def test_a_long_recording_is_cut_as_the_pipeline_does(
    heard: dict[str, Any], options: tuple[float, float | None], seconds: float
) -> None:
    sound = tones(seconds, 5)
    chunk, stride = options
    (own,) = heard["ours"].transcribe(
        [sound], sampling_rate=16_000, chunk_length_s=chunk, stride_length_s=stride
    )
    theirs = heard["theirs"](sound.copy(), chunk_length_s=chunk, stride_length_s=stride)
    assert own.text == theirs["text"]
    assert own.segments[0].end_s == pytest.approx(seconds, abs=1e-3)


def test_batches_are_single_recordings(heard: dict[str, Any]) -> None:
    sounds = [tones(0.5 + 0.4 * index, index) for index in range(4)]
    alone = [heard["ours"].transcribe([sound], sampling_rate=16_000)[0] for sound in sounds]
    assert heard["ours"].transcribe(sounds, sampling_rate=16_000, batch_size=4) == alone


def test_a_long_file_comes_in_blocks(heard: dict[str, Any], tmp_path: Path) -> None:
    import soundfile

    sound = tones(125.0, 7)
    soundfile.write(tmp_path / "long.wav", sound, 16_000, subtype="FLOAT")
    (of_file,) = heard["ours"].transcribe([tmp_path / "long.wav"])
    (of_array,) = heard["ours"].transcribe([sound], sampling_rate=16_000)
    assert of_file.text == of_array.text
    assert of_file.segments == of_array.segments
