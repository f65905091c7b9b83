"""An artifact's model answers transformers' own requests as stock transformers does, or refuses."""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from exporter.errors import RecipeError
from tests.support.generating import REFUSED, REQUESTS, Inputs, inputs_of, require_alike, stock
from tests.support.whisper import opened as opened_anew
from tests.support.whisper import recut

KINDS = ["dynamic", "static", "device", "eager"]
TOLERANCE = {
    "dynamic": 1e-4,
    "static": 0.02,
    "device": 1e-4,
    "eager": 1e-4,
}  # static: the audio's cache is int8


opened = cache(opened_anew)


@cache
def given(folder: Path) -> Inputs:
    return inputs_of(folder)


@cache
def expected(folder: Path, request: str) -> Tensor:
    with torch.no_grad():
        return REQUESTS[request](stock(folder), given(folder))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_", REQUESTS)
def test_it_answers(tiny_whisper: Path, kind: str, request_: str) -> None:
    with torch.no_grad():
        found = REQUESTS[request_](opened(tiny_whisper, kind), given(tiny_whisper))
    require_alike(found, expected(tiny_whisper, request_), TOLERANCE[kind])


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("request_", REFUSED)
def test_it_refuses_by_name(tiny_whisper: Path, kind: str, request_: str) -> None:
    call, told = REFUSED[request_]
    with pytest.raises(RecipeError, match=told):
        call(opened(tiny_whisper, kind), given(tiny_whisper))


def test_it_knows_every_argument_of_the_original(tiny_whisper: Path) -> None:
    """An unknown one would be ignored, or be taken for a misspelt one by `generate`."""
    original = inspect.signature(WhisperForConditionalGeneration.forward).parameters
    ours = inspect.signature(type(opened(tiny_whisper, "dynamic")).forward).parameters
    named = [name for name, one in original.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert set(named) <= set(ours)
    assert named[:4] == list(ours)[:4]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_an_assistant_proposes_tokens(tiny_whisper: Path, kind: str) -> None:
    inputs, model = given(tiny_whisper), recut(tiny_whisper, kind)  # type: ignore[arg-type]
    assistants = [stock(tiny_whisper), stock(tiny_whisper)]  # transformers changes their settings
    found, expected = (
        one.generate(inputs.one, assistant_model=assistant, **inputs.asked)
        for one, assistant in zip((model, stock(tiny_whisper)), assistants, strict=True)
    )
    assert found.tolist() == expected.tolist()
    with pytest.raises(RecipeError, match="assistant_model"):
        stock(tiny_whisper).generate(inputs.one, assistant_model=model, **inputs.asked)


def test_what_the_encoder_gives_is_passed_on_only_where_it_is_hidden_states(
    tiny_whisper: Path,
) -> None:
    inputs = given(tiny_whisper)
    states = stock(tiny_whisper).get_encoder()(inputs.one)
    kept = opened(tiny_whisper, "dynamic")(decoder_input_ids=inputs.words, encoder_outputs=states)
    assert torch.equal(kept.encoder_last_hidden_state, states.last_hidden_state)
    static = opened(tiny_whisper, "static")
    assert static(inputs.one, decoder_input_ids=inputs.words).encoder_last_hidden_state is None
    for call in (static, static.generate):
        with pytest.raises(RecipeError, match="encoder_outputs"):
            call(decoder_input_ids=inputs.words, encoder_outputs=states)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_graphs_of_earlier_releases_decode_a_prompt_token_by_token(
    tiny_whisper: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They give the logits after the last token only."""
    model, inputs = recut(tiny_whisper, kind), given(tiny_whisper)  # type: ignore[arg-type]
    name = "step" if kind == "dynamic" else "decoder"
    whole = model.engine.functions[name]

    def last(tensors: Any, wanted: Any = None) -> dict[str, Tensor]:
        made = whole(tensors, wanted)
        logits = made["logits"][:, -1:]
        return {**made, "logits": logits if kind == "dynamic" else logits[:, 0]}

    model.engine.functions[name] = last
    request = "logits of a prompt"
    with torch.no_grad():
        found = REQUESTS[request](model, inputs)
    require_alike(found, expected(tiny_whisper, request), TOLERANCE[kind])
