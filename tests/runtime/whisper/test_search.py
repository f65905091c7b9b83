"""Windows are decoded token for token as by transformers' `generate` on the same model."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.families.whisper.decoding.settings import (
    generation_settings,
    own_settings,
    with_settings,
)
from exporter.families.whisper.engine.engine import ArrayEngine
from exporter.runtime.whisper.engine import Features
from exporter.runtime.whisper.language import find_languages
from exporter.runtime.whisper.options import Options
from exporter.runtime.whisper.rules import Rules
from exporter.runtime.whisper.search import greedy
from exporter.runtime.whisper.settings import Settings
from exporter.runtime.whisper.windows import Windows
from tests.support.dice import dice, encoder


def windows(model: Any, *numbers: int) -> Features:
    """Features of windows, which are told apart by the number that fills them."""
    shape = (1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    return np.array(numbers)[:, None, None] * np.ones(shape, np.float32)


def settings_of(model: Any, **changes: Any) -> Settings:
    return replace(own_settings(model), **changes)


def both(
    model: Any, features: Features, options: Options, *, times: bool = False, **changes: Any
) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of windows by our search, and by `generate`."""
    settings = settings_of(model, **changes)
    engine = ArrayEngine(model.engine)
    encoded = engine.encode(features)
    code = options.language or settings.language
    language = settings.languages[code] if code else None
    init = settings.init(language, options.task, timestamps=times)
    prompts = np.array([init] * len(features))
    decoder = Windows(engine, settings, options, timestamps=times)
    ours = decoder.decode(encoded, prompts, 0, range(len(features)))
    config = generation_settings(model, settings, options, timestamps=times)
    config.begin_suppress_tokens = list(settings.not_first) or None
    config.max_initial_timestamp_index = settings.max_initial
    view = with_settings(model, config)
    seen: list[list[int]] = []
    usual = view.generate_with_fallback

    def listening(*arguments: Any, **named: Any) -> Any:
        result = usual(*arguments, **named)
        seen.extend(row.tolist() for row in result[0])
        return result

    view.generate_with_fallback = listening
    with torch.inference_mode():
        view.generate(torch.from_numpy(features), force_unique_generate_call=True)
    return [window.tokens for window in ours], seen


def test_the_encoder_hears_one_window_at_a_time(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    heard: list[int] = []

    def listening(inputs: Any, wanted: Any = None) -> Any:
        heard.append(len(inputs["input_features"]))
        return encoder(inputs, wanted)

    model.engine.functions["encoder"] = listening
    features = windows(model, 3, 1, 2)
    expected = encoder({"input_features": torch.from_numpy(features)})["window"]
    assert torch.equal(ArrayEngine(model.engine).encode(features), expected)
    assert heard == [1, 1, 1]


CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"max_new_tokens": 5}, {}),
    ({"max_length": 7}, {}),
    ({"exact_tokens": 12}, {}),
    ({}, {"not_first": ()}),
    ({}, {"never": ()}),
    ({"length_penalty": 0.0}, {}),
    ({"length_penalty": -1.0}, {}),
    ({"length_penalty": 2.5}, {}),
    ({"repetition_penalty": 1.3}, {}),
    ({"repetition_penalty": 0.7}, {}),
    ({"no_repeat_ngram_size": 1}, {}),
    ({"no_repeat_ngram_size": 2, "repetition_penalty": 0.5}, {}),
]


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_searches(tiny_whisper: Path, beams: int, changes: Any) -> None:
    """Windows that end at different lengths, alone and together."""
    model = dice(tiny_whisper)
    options, settings = changes
    lengths = set()
    for numbers in ([1], [3, 4, 5, 6]):
        given = Options(language="en", num_beams=beams, **options)
        found, expected = both(model, windows(model, *numbers), given, **settings)
        assert found == expected
        lengths |= {len(row) for row in found}
    assert len(lengths) > 1 or changes != ({}, {})


@pytest.mark.parametrize("punctual", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("english", [False, True])
def test_timestamps(
    tiny_whisper: Path, english_whisper: Path, beams: int, punctual: float, english: bool
) -> None:
    """Pairs, single ones at the end, and windows that never end."""
    model = dice(english_whisper if english else tiny_whisper, 3.0, punctual)
    options = Options(num_beams=beams)
    for numbers in ([1], [6, 7, 8]):
        found, expected = both(model, windows(model, *numbers), options, times=True)
        assert found == expected
        found, expected = both(
            model, windows(model, *numbers), options, times=True, max_initial=None
        )
        assert found == expected


@pytest.mark.parametrize("eagerness", [0.0, 9.0])
@pytest.mark.parametrize("beams", [1, 5])
def test_seldom_and_soon_ending(tiny_whisper: Path, beams: int, eagerness: float) -> None:
    """Up to the longest that the model can hold, and not a single token."""
    model = dice(tiny_whisper, eagerness)
    options = Options(language="de", num_beams=beams)
    found, expected = both(model, windows(model, 1, 2, 3), options)
    assert found == expected


def test_exactly_so_many_tokens(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    for beams in (1, 5):
        options = Options(language="en", num_beams=beams, exact_tokens=17)
        found, _ = both(model, windows(model, 1, 2), options)
        assert [len(row) for row in found] == [17, 17]


def test_several_ends(tiny_whisper: Path) -> None:
    """transformers knows them without timestamps only."""
    model = dice(tiny_whisper, 2.0)
    end = model.generation_config.eos_token_id
    (usual,), _ = both(model, windows(model, 1), Options())
    model.generation_config.eos_token_id = [end, usual[2]]
    (found,), _ = both(model, windows(model, 1), Options())
    assert found == usual[:2]


def test_a_change_of_the_models_own_settings_is_followed(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    first, _ = both(model, windows(model, 1), Options())
    model.generation_config.suppress_tokens.append(first[0][0])  # in place
    found, expected = both(model, windows(model, 1), Options())
    assert found == expected != first


def test_languages(tiny_whisper: Path) -> None:
    model = dice(tiny_whisper)
    settings, features = settings_of(model), windows(model, *range(1, 9))
    engine = ArrayEngine(model.engine)
    tokens = settings.language_tokens[::-1]
    found, chances = find_languages(engine, engine.encode(features), settings.start, tokens)
    with torch.inference_mode():
        expected = model.detect_language(torch.from_numpy(features))
        start = torch.full((8, 1), settings.start)
        logits = model(torch.from_numpy(features), decoder_input_ids=start).logits[:, -1]
    assert found.tolist() == expected.tolist()
    probabilities = logits[:, np.sort(tokens)].softmax(-1).amax(-1)
    assert chances == pytest.approx(probabilities.numpy(), rel=1e-5)
    assert len(set(found.tolist())) > 1


@cache
def _drawn(folder: Path, temperature: float, seed: int) -> list[int]:
    model = dice(folder, 2.0)
    options = Options(language="en", temperatures=(temperature,), max_new_tokens=8)
    settings, engine = settings_of(model), ArrayEngine(model.engine)
    init = settings.init(settings.languages["en"], None, timestamps=False)
    decoder = Windows(engine, settings, options, timestamps=False)
    (window,) = decoder.decode(engine.encode(windows(model, 1)), np.array([init]), 0, [seed])
    return window.tokens


def test_drawn_tokens(tiny_whisper: Path) -> None:
    """Colder ones are the likeliest; the same seed gives the same; suppressed ones do not come."""
    likeliest = _drawn(tiny_whisper, 0.0, 0)
    assert _drawn(tiny_whisper, 1e-3, 0) == likeliest
    texts = [_drawn(tiny_whisper, 1.0, seed) for seed in range(20)]
    assert len({tuple(text) for text in texts}) > 10
    model = dice(tiny_whisper)
    assert not set(model.generation_config.suppress_tokens).intersection(*texts)


class Loaded:
    """Windows whose logits never change."""

    def __init__(self, logits: Any, windows: int) -> None:
        self.windows = windows
        self._logits = np.array(logits, np.float32)

    def step(self, ids: Any) -> Any:
        return np.tile(self._logits, (len(ids), 1, 1))


def test_drawn_tokens_follow_the_probabilities() -> None:
    """Twelve thousand draws, by the softmax of the logits over the temperature."""
    logits, count = [0.0, 1.0, 2.0, -np.inf, -np.inf], 12_000
    rules = replace(Options().rules(_no_settings(), timestamps=False), max_new=1)
    hypotheses: Any = Loaded(logits, count)
    found = greedy(
        hypotheses,
        np.tile(np.array(logits, np.float32), (count, 1)),
        np.zeros((count, 1), np.int64),
        rules,
        temperature=2.0,
        samplers=[np.random.default_rng(0)] * count,
        scored=True,
    )
    share = np.bincount([one.tokens[0] for one in found], minlength=5) / count
    chances = np.exp(np.array(logits) / 2) / np.exp(np.array(logits) / 2).sum()
    assert np.abs(share - chances).max() < 0.015
    sure = np.array(logits) - np.log(np.exp(logits).sum())  # whatever the temperature
    assert all(abs(one.avg_logprob - sure[one.tokens[0]]) < 1e-5 for one in found[:50])  # type: ignore[operator]


def _no_settings() -> Settings:
    generation = {"eos_token_id": 4, "decoder_start_token_id": 0, "no_timestamps_token_id": 3}
    return Settings.of({"vocab_size": 5}, generation, {})


@pytest.mark.parametrize("beams", [1, 4])
def test_scores_are_transformers_own(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, beams: int
) -> None:
    """Average log-probabilities, no-speech and compression, as `generate` holds to thresholds."""
    model = dice(tiny_whisper, 4.0, 0.5)
    settings = settings_of(model)
    thresholds: dict[str, Any] = {
        "logprob_threshold": -9.0,
        "no_speech_threshold": 0.9,
        "compression_ratio_threshold": 9.0,
    }
    options = Options(language="en", num_beams=beams, **thresholds)
    seen: dict[str, list[float]] = {"logprobs": [], "ratio": [], "no speech": []}
    cls = type(model).__mro__[1]
    logprobs, ratio = cls._retrieve_avg_logprobs, cls._retrieve_compression_ratio

    def noted(name: str, usual: Any) -> Any:
        def call(*arguments: Any) -> Any:
            value = usual(*arguments)
            seen[name].append(float(value))
            return value

        return staticmethod(call)

    monkeypatch.setattr(cls, "_retrieve_avg_logprobs", noted("logprobs", logprobs), raising=False)
    monkeypatch.setattr(cls, "_retrieve_compression_ratio", noted("ratio", ratio), raising=False)
    engine = ArrayEngine(model.engine)
    init = settings.init(settings.languages["en"], None, timestamps=True)
    decoder = Windows(engine, settings, options, timestamps=True)
    for number in range(1, 6):
        features = windows(model, number)
        (ours,) = decoder.decode(engine.encode(features), np.array([init]), 0, [0])
        config = generation_settings(model, settings, options, timestamps=True)
        with torch.inference_mode():
            with_settings(model, config).generate(
                torch.from_numpy(features),
                force_unique_generate_call=True,
                temperature=(0.0,),
                **thresholds,
            )
            first = model(torch.from_numpy(features), decoder_input_ids=torch.tensor([init]))
        silence = first.logits[0, 0].softmax(-1)[settings.no_speech]
        assert ours.avg_logprob == pytest.approx(seen["logprobs"][-1], abs=1e-5)
        assert ours.compression_ratio == pytest.approx(seen["ratio"][-1])
        assert ours.no_speech_prob == pytest.approx(float(silence), rel=1e-5)


Rows = list[list[int]]


def patient_search(
    decode: Any, prompt: list[int], rules: Rules, beams: int, enough: int
) -> tuple[list[int], float]:
    """`BeamSearchDecoder` and `MaximumLikelihoodRanker` of openai-whisper, for one window.

    `decode` returns the logits after each row of tokens.
    """
    rows: Rows = [prompt] * beams
    sums, finished = [0.0] * beams, dict[tuple[int, ...], float]()
    while len(rows[0]) < rules.longest(len(prompt)) and len(finished) < enough:
        logits = np.array(decode(rows))
        rules.apply(logits, np.array(rows), len(prompt))
        logprobs = torch.from_numpy(logits).log_softmax(-1)
        scores, ended = dict[tuple[int, ...], float](), dict[tuple[int, ...], float]()
        for row, total, each in zip(rows, sums, logprobs, strict=True):
            best = each.topk(beams + 1)
            for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                scores[(*row, token)] = total + value
        rows, sums = [], []
        for sequence in sorted(scores, key=lambda each: scores[each], reverse=True):
            if sequence[-1] == rules.end:
                ended[sequence] = scores[sequence]
                continue
            rows.append([*sequence])
            sums.append(scores[sequence])
            if len(rows) == beams:
                break
        finished.update([*ended.items()][: enough - len(finished)])
    running = [((*row, rules.end), total) for row, total in zip(rows, sums, strict=True)]
    finished.update(running[: max(beams - len(finished), 0)])
    best_one = max(finished, key=lambda each: finished[each] / max(len(each) - len(prompt) - 1, 1))
    return [*best_one[len(prompt) : -1]], finished[best_one]


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize(("beams", "patience"), [(2, 1.0), (3, 1.0), (3, 2.0), (5, 1.5)])
@pytest.mark.parametrize("eagerness", [1.0, 5.0])
def test_patience(
    tiny_whisper: Path, beams: int, patience: float, eagerness: float, times: bool
) -> None:
    """Texts, and their log-probabilities, are those of openai-whisper's search."""
    model = dice(tiny_whisper, eagerness, -1.0)
    settings, engine = settings_of(model), ArrayEngine(model.engine)
    options = Options(
        language="en",
        num_beams=beams,
        patience=patience,
        logprob_threshold=-99.0,
        max_new_tokens=10,
    )
    init = settings.init(settings.languages["en"], None, timestamps=times)
    features = windows(model, 1, 2, 3)
    decoder = Windows(engine, settings, options, timestamps=times)
    found = decoder.decode(engine.encode(features), np.array([init] * 3), 0, range(3))
    rules = options.rules(settings, timestamps=times)
    for window, ours in zip(features, found, strict=True):

        def decode(rows: Rows, window: Any = window) -> Any:
            with torch.inference_mode():
                repeated = torch.from_numpy(window).expand(len(rows), -1, -1)
                logits = model(repeated, decoder_input_ids=torch.tensor(rows)).logits
            return logits[:, -1].numpy()

        tokens, total = patient_search(decode, init, rules, beams, round(beams * patience))
        assert ours.tokens == tokens
        ended = len(tokens) < 10
        assert ours.avg_logprob == pytest.approx(total / (len(tokens) + ended), rel=1e-5)


def test_the_likeliest_of_several_drawn_texts_is_taken(tiny_whisper: Path) -> None:
    """Each is drawn by itself, so the best of more is at least as likely."""
    model = dice(tiny_whisper, 2.0)
    settings, engine = settings_of(model), ArrayEngine(model.engine)
    init = settings.init(settings.languages["en"], None, timestamps=False)
    encoded = engine.encode(windows(model, 1, 2))

    def drawn(best_of: int) -> list[Any]:
        options = Options(
            language="en",
            temperatures=(1.0,),
            best_of=best_of,
            max_new_tokens=8,
            logprob_threshold=-99.0,
        )
        decoder = Windows(engine, settings, options, timestamps=False)
        return decoder.decode(encoded, np.array([init] * 2), 0, [7, 8])

    def score(window: Any) -> float:
        count = len(window.tokens)
        return float(window.avg_logprob * (count + (count < 8)) / max(count, 1))

    scores = [[score(window) for window in drawn(count)] for count in (1, 2, 5, 20)]
    for row in range(2):
        each = [one[row] for one in scores]
        assert each == sorted(each)
        assert each[-1] > each[0]
