"""The Whisper family: one road for the original and for graphs, token for token transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from exporter.errors import IntegrityError
from exporter.families.graph import parameter_names
from exporter.families.whisper import family as whisper
from exporter.formats import audio as audio_files
from exporter.recipe import Decoding
from tests.support.whisper import Cut, multilingual, recut, sounds

DECODINGS = [
    {},
    {"batch_size": 3},
    {"num_beams": 3, "batch_size": 2},
    {"timestamps": True, "batch_size": 3},
]


@pytest.mark.parametrize("how", DECODINGS, ids=str)
@pytest.mark.parametrize("cut", ["dynamic", "static"])
def test_graphs_decode_as_the_original(tiny_whisper: Path, cut: Cut, how: dict[str, Any]) -> None:
    """Short recordings, and one longer than the window."""
    decoding = multilingual(**how)
    audio = sounds(0.5, 2.0, 4.0, 6.0)
    processor = whisper.processor(tiny_whisper)
    expected = whisper.transcribe(whisper.open_original(tiny_whisper), processor, audio, decoding)
    assert all(transcript.text for transcript in expected)
    assert len({transcript.tokens for transcript in expected}) > 1
    found = whisper.transcribe(recut(tiny_whisper, cut), processor, audio, decoding)
    assert [f.tokens for f in found] == [e.tokens for e in expected]
    assert found == expected


@pytest.mark.parametrize("num_beams", [1, 3])
def test_transcribe_gives_the_tokens_of_generate(tiny_whisper: Path, num_beams: int) -> None:
    """Against transformers called by hand, without anything of ours but the folder."""
    model = whisper.open_original(tiny_whisper)
    processor = whisper.processor(tiny_whisper)
    audio = sounds(1.0, 3.0)
    features = processor.feature_extractor(audio, sampling_rate=16000, return_tensors="pt")
    generated = model.generate(
        features.input_features, language="en", task="transcribe", num_beams=num_beams
    )
    texts = processor.batch_decode(generated, skip_special_tokens=True)
    end = model.generation_config.eos_token_id
    decoding = multilingual(num_beams=num_beams, batch_size=2)
    found = whisper.transcribe(model, processor, audio, decoding)
    assert [transcript.text for transcript in found] == [text.strip() for text in texts]
    for transcript, row in zip(found, generated.tolist(), strict=True):
        prompt_and_end = set(processor.tokenizer.all_special_ids) | {end}
        assert list(transcript.tokens) == [token for token in row if token not in prompt_and_end]


def test_long_recordings_get_the_tokens_of_generate(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window by window, from samples or from a file in blocks, as transformers does from all."""
    monkeypatch.setattr(audio_files, "WHOLE_S", 3)
    model, processor = whisper.open_original(tiny_whisper), whisper.processor(tiny_whisper)
    (sound,) = sounds(11.0)
    soundfile.write(tmp_path / "long.wav", sound, 16000, subtype="FLOAT")
    stored = audio_files.read(tmp_path / "long.wav", 16000)
    assert isinstance(stored, audio_files.LongAudio)
    features = processor.feature_extractor(
        [sound], sampling_rate=16000, truncation=False, padding="longest", return_tensors="pt"
    )
    generated = model.generate(
        features.input_features, language="en", task="transcribe", return_timestamps=True
    )
    first_time = processor.tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    special = set(processor.tokenizer.all_special_ids)
    expected = [t for t in generated[0].tolist() if t < first_time and t not in special]
    for other in (model, recut(tiny_whisper, "dynamic")):
        for given in (sound, stored):
            (found,) = whisper.transcribe(other, processor, [given], multilingual())
            assert list(found.tokens) == expected


def test_an_english_only_checkpoint_of_another_shape(english_whisper: Path) -> None:
    processor = whisper.processor(english_whisper)
    audio = sounds(1.0, 6.0, 8.0)
    original = whisper.open_original(english_whisper)
    expected = whisper.transcribe(original, processor, audio, Decoding())
    for cut in ("dynamic", "static"):
        found = whisper.transcribe(recut(english_whisper, cut), processor, audio, Decoding())
        assert found == expected


def test_segments_follow_one_another(tiny_whisper: Path) -> None:
    model, processor = whisper.open_original(tiny_whisper), whisper.processor(tiny_whisper)
    (found,) = whisper.transcribe(model, processor, sounds(11.0), multilingual())
    starts = [segment.start_s for segment in found.segments]
    assert len(starts) > 1
    assert starts == sorted(starts)
    assert all(segment.end_s > segment.start_s for segment in found.segments)


@pytest.mark.parametrize("cut", ["dynamic", "static"])
def test_graphs_hold_the_models_own_tensors(tiny_whisper: Path, cut: Cut) -> None:
    model = whisper.open_original(tiny_whisper)
    expected = {name for name in model.state_dict() if name not in whisper.TIED}
    expected |= set(whisper.TIED)
    named: set[str] = set()
    for graph in whisper.graphs(model, cut):
        names = parameter_names(graph, model)
        state = graph.module.state_dict()
        assert all(torch.equal(state[n], model.state_dict()[names[n]]) for n in names)
        named |= set(names.values())
    assert expected <= named | set(whisper.TIED.values()) | set(whisper.TIED)


def test_a_skeleton_has_shapes_but_no_weights(tiny_whisper: Path) -> None:
    original = whisper.open_original(tiny_whisper)
    skeleton = whisper.skeleton(json.loads(original.config.to_json_string(use_diff=False)))
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    shapes = {name: tensor.shape for name, tensor in original.state_dict().items()}
    assert {name: tensor.shape for name, tensor in skeleton.state_dict().items()} == shapes


def test_graphs_of_an_earlier_exporter_are_told(tiny_whisper: Path) -> None:
    earlier = dict.fromkeys(("encoder_model", "decoder_model_merged"), lambda _: {})
    with pytest.raises(IntegrityError, match="earlier exporter, or one is missing"):
        whisper.assemble(tiny_whisper, earlier)
