"""The lean loops decode token for token as transformers' `generate` on the same model."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from exporter import recipe
from exporter.build.pipeline import build
from exporter.families.whisper import family as whisper
from exporter.families.whisper.decoding import loop
from exporter.families.whisper.decoding.settings import settings_of, with_settings
from exporter.families.whisper.engine.cache import GraphCache
from exporter.families.whisper.engine.model import GraphWhisper
from exporter.recipe import Decoding
from exporter.recognition.load import load
from tests.support.in_process import steps_in_process
from tests.support.tiny import make_whisper
from tests.support.whisper import multilingual, opened, recut, sounds

KINDS = ["dynamic", "static", "eager"]


class Dice:
    """A decoder whose logits are drawn anew for each window and each row of tokens before.

    What is cached is the tokens themselves, so whoever reorders rows wrongly gets other logits.
    """

    takes_hidden_states = True

    def __init__(self, size: int, end: int, times: int, eagerness: float) -> None:
        self._size = size
        self._end = end
        self._times = times
        self._eagerness = eagerness

    def start(self) -> GraphCache:
        return GraphCache()

    def step(self, ids: Tensor, encoded: Tensor, cache: GraphCache) -> Tensor:
        before = cache.tensors.get("tokens", ids[:, :0])
        tokens = cache.tensors["tokens"] = torch.cat([before, ids], 1)
        cache.length += ids.shape[1]
        beams = len(ids) // len(encoded)
        windows = encoded.flatten().repeat_interleave(beams).int().tolist()
        drawn = [
            [self._draw(window, row[: place + 1]) for place in range(before.shape[1], len(row))]
            for window, row in zip(windows, tokens.tolist(), strict=True)
        ]
        return torch.stack([torch.stack(row) for row in drawn])

    def expand_beams(self, encoded: Tensor, cache: GraphCache, beams: int) -> Tensor:
        cache.reorder_cache(torch.arange(len(encoded)).repeat_interleave(beams))
        return encoded

    def release(self, cache: GraphCache) -> None:
        pass

    def _draw(self, window: int, tokens: list[int]) -> Tensor:
        logits = np.random.default_rng([window, *tokens]).normal(0, 2, self._size)
        logits[self._end] += self._eagerness
        logits[self._times :] -= 50
        return torch.from_numpy(logits.astype(np.float32))


def encoder(inputs: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
    return {"window": inputs["input_features"][:, 0, :1]}


def dice(folder: Path, eagerness: float = 5.0) -> Any:
    """A model that draws; windows are told apart by the number that fills their features."""
    original = whisper.open_original(folder)
    config, generation = original.config, original.generation_config
    times = generation.no_timestamps_token_id + 1
    decoder = Dice(config.vocab_size, generation.eos_token_id, times, eagerness)
    engine = loop.Engine({"encoder": encoder}, "encoder", decoder, torch.device("cpu"))
    return GraphWhisper(config, generation, engine)


def windows(model: Any, *numbers: int) -> Tensor:
    shape = (1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    return torch.tensor(numbers)[:, None, None] * torch.ones(shape)


def asked(model: Any, changes: Mapping[str, Any] = {}, **options: Any) -> GenerationConfig:
    """The settings for a recipe's options, changed."""
    settings = settings_of(model, Decoding(**options), timestamps=False)
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


def both(model: Any, features: Tensor, settings: GenerationConfig) -> tuple[Any, Any]:
    """What the lean loops give, and what `generate` gives."""
    with torch.inference_mode():
        found = loop.decode(model, features, settings)
        generated = with_settings(model, settings).generate(features, return_segments=True)
    segments = [one for (one,) in generated["segments"]]
    return found, [segment["tokens"].tolist() for segment in segments]


def test_the_encoder_hears_one_window_at_a_time(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    heard: list[int] = []

    def listening(inputs: Mapping[str, Tensor], wanted: Any = None) -> dict[str, Tensor]:
        heard.append(len(inputs["input_features"]))
        return encoder(inputs, wanted)

    model.engine.functions["encoder"] = listening
    features = windows(model, 3, 1, 2)
    assert torch.equal(
        model.engine.encode(features), encoder({"input_features": features})["window"]
    )
    assert heard == [1, 1, 1]


CHANGES: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 5},
    {"max_length": 7},
    {"min_new_tokens": 12, "max_new_tokens": 12},
    {"min_new_tokens": 4},
    {"begin_suppress_tokens": None},
    {"suppress_tokens": None},
    {"length_penalty": 0.0},
    {"length_penalty": -1.0},
    {"length_penalty": 2.5},
]


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_searches(tiny_whisper: Path, beams: int, changes: dict[str, Any]) -> None:
    """Windows that end at different lengths, alone and together."""
    model = dice(tiny_whisper)
    settings = asked(model, changes, language="en", num_beams=beams)
    lengths = set()
    for numbers in ([1], [2], [3, 4, 5], [6, 7, 8, 9, 10]):
        found, expected = both(model, windows(model, *numbers), settings)
        assert found == expected
        lengths |= {len(row) for row in found}
    assert len(lengths) > 1 or changes


@pytest.mark.parametrize("eagerness", [0.0, 9.0])
@pytest.mark.parametrize("beams", [1, 5])
def test_seldom_and_soon_ending(tiny_whisper: Path, beams: int, eagerness: float) -> None:
    """Up to the longest that the model can hold, and not a single token."""
    model = dice(tiny_whisper, eagerness)
    settings = asked(model, language="de", num_beams=beams)
    found, expected = both(model, windows(model, 1, 2, 3), settings)
    assert found == expected


def test_exactly_so_many_tokens(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    whisper.force_tokens(model, 17)
    for beams in (1, 5):
        settings = asked(model, language="en", num_beams=beams)
        found, _ = both(model, windows(model, 1, 2), settings)
        assert [len(row) for row in found] == [17, 17]


def test_a_change_of_the_models_own_settings_is_followed(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    first, _ = both(model, windows(model, 1), asked(model, language="en"))
    model.generation_config.suppress_tokens.append(first[0][0])  # in place
    found, expected = both(model, windows(model, 1), asked(model, language="en"))
    assert found == expected != first


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 3},
        {"pad_token_id": 1},
        {"eos_token_id": [1, 2]},
        {"language": None},
        {"max_length": 4},
        {"max_new_tokens": 10_000},
        {"return_timestamps": True},
    ],
    ids=str,
)
def test_what_the_loops_do_not_know_is_left_to_generate(
    tiny_whisper: Path, changes: dict[str, Any]
) -> None:
    model = dice(tiny_whisper)
    assert loop.decode(model, windows(model, 1), asked(model)) is not None
    assert loop.decode(model, windows(model, 1), asked(model, changes)) is None


def test_tokens_that_stand_for_times_are_left_to_generate(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    times = model.generation_config.no_timestamps_token_id + 1
    everything = [i for i in range(model.config.vocab_size) if i != times]
    settings = asked(model, {"suppress_tokens": everything, "max_new_tokens": 3})
    with torch.inference_mode():
        assert loop.decode(model, windows(model, 1), settings) is None


@pytest.fixture(scope="module")
def wavering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is not sure of its words and finds no end: up to the longest of all."""
    folder = make_whisper(tmp_path_factory.mktemp("wavering") / "model", certainty=1.2, seed=3)
    config = whisper.generation_config(folder)
    size = whisper.open_original(folder).config.vocab_size
    config.suppress_tokens += range(config.no_timestamps_token_id + 1, size)
    config.save_pretrained(folder)
    return folder


SECONDS = (0.5, 2.0, 3.0, 4.0)


@cache
def _of_the_original(folder: Path, decoding: Decoding) -> list[Any]:
    """What `generate` gives on the original: slow, and the same for every kind."""
    original, processor = whisper.open_original(folder), whisper.processor(folder)
    return whisper.transcribe(original, processor, sounds(*SECONDS), decoding)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        pytest.param({"num_beams": 5}, marks=pytest.mark.sweep),
        {"batch_size": 3},
        {"num_beams": 4, "batch_size": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("english", [False, True], ids=["multilingual", "English-only"])
def test_transcripts(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    how: dict[str, Any],
    english: bool,
) -> None:
    """Text, tokens and times, of recordings that go through the graphs."""
    names = ["english_whisper"] if english else ["tiny_whisper", "wavering"]
    for folder in map(request.getfixturevalue, names):
        model, processor = opened(folder, kind), whisper.processor(folder)
        decoding = Decoding(**how) if english else multilingual(**how)
        audio = sounds(*SECONDS)
        with monkeypatch.context() as patch:
            patch.setattr(model, "generate", None)  # it must not be called
            found = whisper.transcribe(model, processor, audio, decoding)
            again = whisper.transcribe(model, processor, audio, decoding)
        assert again == found
        with monkeypatch.context() as patch:
            patch.setattr(loop, "decode", lambda *_, **__: None)
            assert whisper.transcribe(model, processor, audio, decoding) == found
        assert _of_the_original(folder, decoding) == found


@pytest.mark.parametrize("kind", KINDS)
def test_functions_may_be_put_in_anothers_place(tiny_whisper: Path, kind: str) -> None:
    model, processor = opened(tiny_whisper, kind), whisper.processor(tiny_whisper)
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        return run

    for name, function in model.engine.functions.items():
        model.engine.functions[name] = counted(name, function)
    whisper.transcribe(model, processor, sounds(1.0), multilingual())
    assert calls.count(model.engine.encoder) == 1
    assert calls.count("step" if "step" in calls else "decoder") > 5


def test_hooks_see_every_step(tiny_whisper: Path) -> None:
    model, processor = recut(tiny_whisper, "dynamic"), whisper.processor(tiny_whisper)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda _model, _inputs, output: seen.append(output.logits))
    (found,) = whisper.transcribe(model, processor, sounds(1.0), multilingual())
    assert len(seen) == len(found.tokens) + 1


def test_the_original_stays_on_transformers_road(tiny_whisper: Path) -> None:
    model = whisper.open_original(tiny_whisper)
    features = windows(model, 1)
    assert loop.decode(model, features, asked(model)) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beams", "kind"),
    [
        (1, "onnx-int8"),
        (5, "onnx-int8"),
        (1, "torch-int8"),
        pytest.param(5, "torch-int8", marks=pytest.mark.sweep),
    ],
)
def test_speech(
    built_demo: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, kind: str, beams: int
) -> None:
    """Every embedded clip, with the weights that understand it."""
    recogniser = load(built_demo / kind, threads=1)
    clips = sorted((repository / "recipes/demo/clips").glob("*.flac"))
    found = recogniser.transcribe(clips, num_beams=beams)
    monkeypatch.setattr(loop, "decode", lambda *_, **__: None)
    assert recogniser.transcribe(clips, num_beams=beams) == found


@pytest.fixture(scope="module")
def built_demo(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = recipe.read(repository / "recipes/whisper-demo-int8.yaml")
    output = tmp_path_factory.mktemp("demo")
    kinds = ["onnx-int8", "torch-int8"]
    with steps_in_process():
        build(wanted, output=output, progress=lambda *_: None, targets=kinds)
    return output / wanted.name
