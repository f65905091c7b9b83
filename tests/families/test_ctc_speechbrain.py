"""SpeechBrain's recognisers: our graph and original compute what SpeechBrain's sources say."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.checkpoint.compatibility import check_fit
from exporter.families import FAMILIES
from exporter.families.ctc.engine import logits_of
from exporter.recognition.load import load_original
from tests.support.tiny_ctc import tones
from tests.support.tiny_speechbrain import FORMS, PIECES, make_speechbrain

FAMILY = FAMILIES["ctc"]
each_form = pytest.mark.parametrize("form", FORMS)


def filled(folder: Path) -> Any:
    """Its skeleton with its weights."""
    checkpoint = open_checkpoint(str(folder), allow_pickle=True)
    model: Any = FAMILY.skeleton(checkpoint.config)
    check_fit(checkpoint, model, FAMILY.TIED)
    state = {name: checkpoint.read(name) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model


def require_equal(folder: Path, reference: Any, values: Tensor) -> None:
    model = filled(folder)
    original = load_original(folder, threads=1, allow_pickle=True).model
    (graph,) = FAMILY.graphs(model, "dynamic")
    with torch.inference_mode():
        expected = reference(values)
        found = (graph.module(values)[0], original(values).logits, model(values).logits)
    for logits in found:
        torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-5)


@each_form
@pytest.mark.parametrize("older_names", [False, True])
def test_graph_and_original_compute_what_speechbrain_does(
    form: str, older_names: bool, tmp_path: Path
) -> None:
    """With both spellings of the weight norm; batch norms are folded."""
    reference = make_speechbrain(tmp_path / "sb", form, older_names=older_names)
    for seconds in (0.04, 0.7, 1.5):
        require_equal(tmp_path / "sb", reference, torch.from_numpy(tones(seconds))[None])


@each_form
@pytest.mark.parametrize("output_norm", [False, True])
@pytest.mark.parametrize("do_normalize", [False, True])
def test_both_normalisations_are_those_of_the_folder(
    form: str, output_norm: bool, do_normalize: bool, tmp_path: Path
) -> None:
    """Loud samples with an offset and outputs far from zero tell them apart."""
    reference = make_speechbrain(
        tmp_path / "sb", form, output_norm=output_norm, do_normalize=do_normalize
    )
    require_equal(tmp_path / "sb", reference, torch.from_numpy(tones(0.9))[None] * 7 + 0.3)


def test_an_encoder_with_group_norm(tmp_path: Path) -> None:
    """As in wav2vec2-base."""
    changes = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
    reference = make_speechbrain(tmp_path / "sb", **changes)
    require_equal(tmp_path / "sb", reference, torch.from_numpy(tones(1.1))[None])


def test_recordings_of_one_batch_are_normalised_each(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    model = filled(tmp_path / "sb")
    (graph,) = FAMILY.graphs(model, "dynamic")
    assert graph.single_layer is not None
    sounds = torch.stack([torch.from_numpy(tones(0.8, seed)) for seed in (1, 2)])
    sounds[1] *= 30
    with torch.inference_mode():
        together = graph.module(sounds)[0]
        alone = [graph.module(each)[0] for each in sounds.split(1)]
    torch.testing.assert_close(together, torch.cat(alone), atol=5e-5, rtol=1e-5)


def test_modules_have_the_names_that_recipes_use(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "sb")
    names = {name for name, _ in filled(tmp_path / "sb").named_modules()}
    assert {"enc.linear1", "enc.linear2", "enc.linear3", FAMILY.HEAD} <= names
    assert {"wav2vec2.encoder.layers.0.attention.q_proj"} <= names
    assert {"wav2vec2.feature_projection.projection"} <= names


def spelled(folder: Path, frames: list[int]) -> str:
    """The text of the likeliest token of each frame."""
    recogniser = load_original(folder, threads=1, allow_pickle=True)
    alphabet = recogniser.processor.alphabet
    return alphabet.text(alphabet.tokens(frames))


def test_pieces_are_joined_to_words(tmp_path: Path) -> None:
    """Blanks separate equal pieces; a piece's mark of a word's beginning is a space."""
    make_speechbrain(tmp_path / "sequential")
    number = {piece: token for token, piece in enumerate(PIECES)}
    frames = ["\u2581the", "\u2581the", "<unk>", "\u2581b", "e", "<unk>", "e", "ing", "</s>", "s"]
    text = spelled(tmp_path / "sequential", [number[piece] for piece in frames])
    assert text == "the beeings"


def test_labels_are_joined_as_they_are(tmp_path: Path) -> None:
    make_speechbrain(tmp_path / "vanilla", "vanilla")
    assert spelled(tmp_path / "vanilla", [5, 5, 0, 5, 6, 3, 4, 7, 2, 0]) == "aab 'c"


def test_an_opened_original_is_one_recording_at_a_time(tmp_path: Path) -> None:
    reference = make_speechbrain(tmp_path / "sb", "vanilla")
    recogniser = load_original(tmp_path / "sb", threads=1, allow_pickle=True)
    sounds = [tones(0.9, 1), tones(1.3, 2)]
    found = recogniser.transcribe(sounds, sampling_rate=16_000)
    for sound, transcript in zip(sounds, found, strict=True):
        with torch.inference_mode():
            values = torch.from_numpy(sound)[None]
            torch.testing.assert_close(logits_of(recogniser.model, values), reference(values))
        assert transcript.text
