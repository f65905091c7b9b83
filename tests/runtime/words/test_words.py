"""Words of recordings: the original's by transformers' own attention, then every cut of it."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

import exporter
from exporter.errors import RecipeError
from exporter.families.whisper import family
from exporter.families.whisper.decoding.settings import own_settings
from exporter.families.whisper.decoding.transcribe import text_of
from exporter.families.whisper.engine.eager import eager_engine
from exporter.families.whisper.engine.engine import ArrayEngine
from exporter.formats.audio import read, whole
from exporter.recipe import Decoding
from exporter.runtime.transcript import Audio, Transcript
from exporter.runtime.words.splitting import words_of
from exporter.runtime.words.timing import Aligner
from tests.support.golden import GOLDEN
from tests.support.whisper import multilingual, opened, sounds

CUTS = ("eager", "dynamic", "static")


def transcripts(model: Any, folder: Path, audio: list[Audio], **how: Any) -> list[Transcript]:
    how = {"word_timestamps": True, **how}
    return family.transcribe(model, family.processor(folder), audio, multilingual(**how))


def check(transcript: Transcript, length_s: float) -> None:
    """Words follow each other inside their segments, and are the text."""
    before = 0.0
    for segment in transcript.segments:
        assert segment.words is not None
        assert "".join(word.text for word in segment.words).strip() == segment.text
        for word in segment.words:
            assert before <= word.start_s <= word.end_s <= length_s
            assert segment.start_s <= word.start_s
            assert word.end_s <= segment.end_s
            assert 0 <= word.probability <= 1
            before = word.end_s


@pytest.fixture(scope="module")
def demo(repository: Path) -> Path:
    return repository / "recipes/demo/whisper"


@pytest.fixture(scope="module")
def clips(repository: Path) -> list[Audio]:
    folder = repository / "recipes/demo/clips"
    return [whole(read(folder / f"short-{n:03}.flac", 16_000)) for n in (1, 14, 45)]


def reference(folder: Path, sound: Audio, tokens: list[int]) -> tuple[list[float], list[float]]:
    """Where tokens begin, and their probabilities: all of transformers, one pass of the decoder."""
    model = WhisperForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    model.eval()
    generation, processor = family.open_original(folder).generation_config, family.processor(folder)
    prompt = [
        generation.decoder_start_token_id,
        generation.lang_to_id["<|en|>"],
        generation.task_to_id["transcribe"],
        generation.no_timestamps_token_id,
    ]
    features = processor.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt")
    ids = torch.tensor([[*prompt, *tokens, generation.eos_token_id]])
    with torch.inference_mode():
        out = model(features.input_features, decoder_input_ids=ids, output_attentions=True)
    heads = generation.alignment_heads
    weights = torch.stack([out.cross_attentions[layer][0, head] for layer, head in heads])
    weights = weights[:, :, : len(sound) // 160 // 2]
    weights = weights / weights.sum(-1, keepdim=True)  # the softmax over the sound alone
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    matrix = _median_filter((weights - mean) / std, 7).mean(0)[len(prompt) - 1 : -1]
    rows, places = _dynamic_time_warping(-matrix.double().numpy())
    new = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    chances = out.logits[0, len(prompt) - 1 : -2, : generation.eos_token_id].softmax(-1)
    told = chances[torch.arange(len(tokens)), tokens].tolist()
    return (places[new] * 0.02).tolist(), told


@pytest.mark.slow
def test_the_originals_words_are_those_of_its_attention(demo: Path, clips: list[Audio]) -> None:
    model = family.open_original(demo)
    settings = own_settings(model, family.processor(demo).feature_extractor)
    text = text_of(family.processor(demo).tokenizer)
    aligner = Aligner(ArrayEngine(eager_engine(model)), settings, text, None)
    for sound, found in zip(clips, transcripts(model, demo, clips), strict=True):
        check(found, len(sound) / 16_000)
        tokens = list(found.tokens)
        begins, chances = reference(demo, sound, tokens)
        encoded = aligner._engine.encode(settings.mel([sound]))
        timings = aligner._timings(encoded, 0, tokens, settings.languages["en"], len(sound) // 160)
        place = 0
        for word in timings:
            end = place + len(word.tokens)
            assert word.start_s == pytest.approx(begins[place])
            assert word.end_s == pytest.approx(begins[end])
            assert word.probability == pytest.approx(np.mean(chances[place:end]), abs=1e-3)
            place = end
        assert place == len(tokens)


@pytest.mark.slow
def test_words_are_near_those_of_generate(demo: Path, clips: list[Audio]) -> None:
    """transformers aligns the tokens as it generates them, and in another pass we do: they differ
    by little, most of the time.
    """
    model = family.open_original(demo)
    ours = transcripts(model, demo, clips)
    processor = family.processor(demo)
    text = text_of(processor.tokenizer)
    gaps: list[float] = []
    for sound, found in zip(clips, ours, strict=True):
        features = processor.feature_extractor(
            sound, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
        )
        eager = WhisperForConditionalGeneration.from_pretrained(
            demo, attn_implementation="eager", dtype=torch.float32
        )
        eager.generation_config = model.generation_config
        out = eager.generate(
            features.input_features,
            attention_mask=features.attention_mask,
            language="en",
            return_token_timestamps=True,
            num_frames=torch.tensor([len(sound) // 160]),
        )
        ids, times = out["sequences"][0].tolist(), out["token_timestamps"][0].tolist()
        assert text.spoken(ids) == list(found.tokens)
        begins = [time for token, time in zip(ids, times, strict=True) if token in found.tokens]
        (segment,) = found.segments
        assert segment.words is not None
        place = 0
        for word, piece in zip(segment.words, words_of(text, found.tokens, "en"), strict=True):
            assert word.text == piece.text
            gaps.append(abs(word.start_s - begins[place]))
            place += len(piece.tokens)
    assert np.median(gaps) < 0.3


@pytest.mark.parametrize("how", [{}, {"timestamps": True}, {"batch_size": 3}, {"num_beams": 2}])
def test_every_cut_gives_the_same_words(tiny_whisper: Path, how: dict[str, Any]) -> None:
    audio = sounds(1.0, 3.1, 2.2)
    found = [transcripts(opened(tiny_whisper, kind), tiny_whisper, audio, **how) for kind in CUTS]
    plain = family.transcribe(
        opened(tiny_whisper, "eager"), family.processor(tiny_whisper), audio, multilingual(**how)
    )
    for kind in range(len(CUTS)):
        for one, first, without, sound in zip(found[kind], found[0], plain, audio, strict=True):
            check(one, len(sound) / 16_000)
            assert one.text == first.text == without.text
            assert one.tokens == without.tokens
            for ours, theirs in zip(one.segments, first.segments, strict=True):
                assert ours.words is not None
                assert theirs.words is not None
                near = [
                    abs(a.start_s - b.start_s)
                    for a, b in zip(ours.words, theirs.words, strict=True)
                ]
                assert sum(gap > 0.1 for gap in near) <= 1
                for a, b in zip(ours.words, theirs.words, strict=True):
                    assert a.text == b.text
                    assert a.probability == pytest.approx(b.probability, abs=0.05)
    assert all("words" not in one.to_dict()["segments"][0] for one in plain)


@pytest.mark.parametrize("kind", CUTS)
def test_long_recordings(tiny_whisper: Path, kind: str) -> None:
    (sound,) = sounds(9.3)
    model = opened(tiny_whisper, kind)
    (found,) = transcripts(model, tiny_whisper, [sound])
    (plain,) = transcripts(model, tiny_whisper, [sound], word_timestamps=False)
    check(found, 9.3)
    assert (found.text, found.tokens) == (plain.text, plain.tokens)
    assert len(found.segments) == len(plain.segments) > 2
    starts = [word.start_s for one in found.segments for word in one.words or ()]
    assert max(starts) > 4  # a window's length
    assert all(one <= other for one, other in pairwise(starts))


def test_without_alignment_heads_the_upper_half_aligns(tiny_whisper: Path) -> None:
    model = opened(tiny_whisper, "eager")
    assert [*own_settings(model).alignment_heads] == [(1, 0), (1, 1)]
    model.generation_config.alignment_heads = None
    assert [*own_settings(model).alignment_heads] == [(1, 0), (1, 1)]
    model.generation_config.alignment_heads = [[0, 1], [7, 0]]
    assert [*own_settings(model).alignment_heads] == [(0, 1)]
    (found,) = transcripts(model, tiny_whisper, sounds(2.0))
    check(found, 2.0)


@pytest.fixture(scope="module")
def aligner(tiny_whisper: Path) -> Aligner:
    model = opened(tiny_whisper, "dynamic")
    processor = family.processor(tiny_whisper)
    settings = own_settings(model, processor.feature_extractor)
    return Aligner(ArrayEngine(model.engine), settings, text_of(processor.tokenizer), None)


@pytest.mark.parametrize("words", ["", " red", " red green", " red" * 55])
@pytest.mark.parametrize("frames", [1, 2, 5, 100, 400])
def test_texts_of_every_length(aligner: Aligner, words: str, frames: int) -> None:
    """Nothing, one word, more than places in the audio, as many as positions."""
    settings = aligner._settings
    encoded = aligner._engine.encode(settings.mel(sounds(2.0)))
    tokens = aligner._text.encode(words)
    span = aligner.span(0.0, frames / 100, tokens)
    aligner.fill([span], encoded, 0, settings.languages["en"], frames, 0.0, 0.0)
    assert "".join(word.text for word in span.words) == words
    assert all(0 <= word.start_s <= word.end_s <= max(frames, 2) / 100 for word in span.words)


def test_earlier_artifacts_say_that_they_lack_what_it_takes(tmp_path: Path) -> None:
    """They are opened by numpy, and once more by torch."""
    folder = Path(shutil.copytree(GOLDEN / "v1-onnx-int8", tmp_path / "old"))
    recogniser = exporter.load(folder)
    (sound,) = sounds(1.0)
    assert recogniser.transcribe(sound, sampling_rate=16_000).segments[0].words is None
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"earlier release.*\n.*--force"):
            recogniser.transcribe(sound, sampling_rate=16_000, word_timestamps=True)
        assert recogniser.model is not None


@pytest.mark.parametrize("kind", CUTS)
def test_validation_compares_queries_with_the_originals(tiny_whisper: Path, kind: str) -> None:
    original = family.open_original(tiny_whisper)
    settings = own_settings(original, family.processor(tiny_whisper).feature_extractor)
    features = torch.from_numpy(settings.mel(sounds(2.0)))
    tokens = torch.arange(20, 29)[None]
    expected = family.forcing.forced(original, features, tokens, [9]).states
    model = opened(tiny_whisper, kind)
    found = family.forcing.forced(model, features, tokens, [4, *[1] * 5]).states
    for layer in range(2):
        name = f"model.decoder.layers.{layer}.encoder_attn.q_proj"
        assert expected[name].shape == (1, 9, 64)
        # The cache of keys and values before it may be in int8 or float16.
        torch.testing.assert_close(found[name], expected[name], atol=0.05, rtol=0.05)


def test_words_are_left_out_of_what_has_none() -> None:
    decoding = Decoding()
    assert "word_timestamps" not in decoding.model_dump()
    assert Decoding(word_timestamps=True).model_dump()["word_timestamps"] is True
    with pytest.raises(RecipeError, match="needs word_timestamps"):
        _check(hallucination_silence_threshold=2.0)
    _check(hallucination_silence_threshold=2.0, word_timestamps=True)


def _check(**how: Any) -> None:
    from exporter.runtime.whisper.options import Options, check_options

    config = {"max_target_positions": 448}
    generation = {"no_timestamps_token_id": 1, "is_multilingual": False}
    check_options(config, generation, replace(Options(), **how))
