"""The languages that clips name: used for decoding, told, or refused with their place."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from exporter.artifact.report import Report
from exporter.bench.clock import HostClock
from exporter.bench.timing import Opened
from exporter.build.pipeline import build
from exporter.errors import DataError
from exporter.families import read_configs
from exporter.families.whisper import family as whisper
from exporter.formats.clips import Clip
from exporter.recipe import Decoding
from exporter.recognition.recogniser import Recogniser
from exporter.runtime.transcript import Transcript
from exporter.system.progress import silent
from exporter.validate import pipeline
from exporter.validate.corpus.languages import Spoken, spoken_in
from exporter.validate.measure.model import ModelSpec, OpenModel
from tests.support.in_process import steps_in_process
from tests.support.recipes import write_recipe

CODES = {"de": "de", "German": "de", "en": "en", "en-US": "en"}


def clips(*languages: str | None) -> list[Clip]:
    return [
        Clip(f"{n}.wav", Path(f"{n}.wav"), "x", language, where=f"m.jsonl:{n + 1}")
        for n, language in enumerate(languages)
    ]


def spoken(model: Path, decoding: Decoding, *languages: str | None) -> Spoken:
    """How a checkpoint is told the clips' languages."""
    configs = read_configs(model, "whisper")
    only = whisper.text_language(configs, Decoding(), None)
    code_of = lambda name: whisper.language_code(configs, name)  # noqa: E731
    return spoken_in(clips(*languages), code_of, decoding.language, only)


def test_every_clip_is_decoded_in_its_own_language(tiny_whisper: Path) -> None:
    names = ("de", "en-US", "German", "de", "<|en|>")
    found = spoken(tiny_whisper, Decoding(), *names)
    assert found.codes == {"de": "de", "en-US": "en", "German": "de", "<|en|>": "en"}
    assert not found.notes


def test_clips_without_a_language_are_told(tiny_whisper: Path) -> None:
    some = spoken(tiny_whisper, Decoding(), "de", None, None)
    assert some.codes == {"de": "de"}
    (note,) = some.notes
    assert note == (
        "2 of 3 clips do not name a language, nor does the recipe: it is left to the model."
    )
    (note,) = spoken(tiny_whisper, Decoding(), None).notes
    assert note.startswith("No clip names a language")


def test_nothing_is_told_of_a_model_that_is_told_no_language() -> None:
    assert spoken_in(clips("de", None), lambda _: None, None, None) == Spoken()


def test_the_recipes_language_wins_and_others_are_told(tiny_whisper: Path) -> None:
    found = spoken(tiny_whisper, Decoding(language="en"), "en", "de", "de", "xx", "English")
    assert not found.codes
    (note,) = found.notes
    assert note == ("3 clips name another language than en, the recipe's language: de (2), xx (1).")
    assert spoken(tiny_whisper, Decoding(language="en"), "en", None) == Spoken()


def test_clips_that_an_english_model_does_not_speak_are_told(english_whisper: Path) -> None:
    found = spoken(english_whisper, Decoding(), "en", "de", "en-GB")
    assert not found.codes
    (note,) = found.notes
    assert note == "1 clips name another language than en, the only language of the model: de (1)."
    assert spoken(english_whisper, Decoding(), "en", None) == Spoken()


def test_an_unknown_language_is_refused_at_its_line(tiny_whisper: Path) -> None:
    with pytest.raises(DataError, match=r"m\.jsonl:2: the checkpoint has no language 'xx'") as told:
        spoken(tiny_whisper, Decoding(), "de", "xx")
    assert "name one `language` for all" in str(told.value)


class Model:
    """Stands for a recogniser that writes the language it is told."""

    def __init__(self) -> None:
        self.sampling_rate = 16_000
        self.batches: list[tuple[str | None, list[Any]]] = []

    def decode(self, sounds: Sequence[Any], decoding: Decoding) -> list[SimpleNamespace]:
        self.batches.append((decoding.language, list(sounds)))
        return [SimpleNamespace(text=f"{decoding.language} {each}", tokens=()) for each in sounds]


def test_a_batch_does_not_mix_languages_and_keeps_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model()
    stand_in = Opened(cast("Any", model), 0.0, HostClock(), None)
    monkeypatch.setattr("exporter.validate.measure.model.opened", lambda *_, **__: stand_in)
    monkeypatch.setattr(OpenModel, "read", lambda _self, path: path.name)
    spec = ModelSpec(
        model=Path(), original=True, threads=1, decoding=Decoding(batch_size=5), languages=CODES
    )
    opened = OpenModel(spec, silent)
    batch = clips("de", "en", None, "German", "en-US")
    texts, seconds = opened.transcribe([c.path for c in batch], [c.language for c in batch])
    assert [each.text for each in texts] == [
        "de 0.wav", "en 1.wav", "None 2.wav", "de 3.wav", "en 4.wav",
    ]  # fmt: skip
    assert model.batches == [
        ("de", ["0.wav", "3.wav"]),
        ("en", ["1.wav", "4.wav"]),
        (None, ["2.wav"]),
    ]
    assert seconds >= 0
    model.batches.clear()
    opened.transcribe([c.path for c in batch])
    assert [language for language, _ in model.batches] == [None]


Judge = Callable[..., Report]


@pytest.fixture(scope="module")
def artifact(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact that has several languages, of a recipe that names none."""
    folder = tmp_path_factory.mktemp("several")
    recipe = write_recipe(folder, tiny_whisper, "{max_new_tokens: 8}")
    with steps_in_process():
        (built,) = build(recipe, output=folder / "out", targets=["torch-int8"], progress=silent)
    return built.path


@pytest.fixture
def judge(artifact: Path, tmp_path: Path) -> Iterator[Judge]:
    """Judge it on seven clips that name some languages."""
    source = np.random.default_rng(0)
    for number in range(7):
        samples = source.normal(0, 0.1, 3000 + 500 * number)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)

    def judged(*languages: str | None) -> Report:
        rows = [
            {"audio": f"{number}.wav", "text": "red green blue", "language": language}
            for number, language in enumerate(languages)
        ]
        (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (told,) = pipeline.validate(
            [artifact], threads=1, data=str(tmp_path), into=tmp_path / "report"
        )
        return told

    with steps_in_process():
        yield judged


def test_both_sides_decode_a_clip_in_its_language_in_both_passes(
    judge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: dict[bool, list[str | None]] = {True: [], False: []}
    decode = Recogniser.decode

    def noted(self: Recogniser, audio: Sequence[Any], decoding: Decoding) -> list[Transcript]:
        asked[self.manifest is None] += [decoding.language] * len(audio)
        return decode(self, audio, decoding)

    monkeypatch.setattr(Recogniser, "decode", noted)
    monkeypatch.setattr("exporter.validate.measure.latency.MAX_PASSES", 1)
    told = judge("de", "en", "German", None, "de-AT", "en", "de")
    passes = asked[False]
    expected = ["de", "en", "de", None, "de", "en", "de"]
    starts = [at for at in range(len(passes)) if passes[at : at + 7] == expected]
    assert len(starts) == 2
    assert asked[True][: len(passes)] == passes  # then it decodes a few to be forced
    note = "1 of 7 clips do not name a language, nor does the recipe: it is left to the model."
    assert note in caplog.text
    assert told.corpus is not None
    assert note in told.corpus.notes
    assert told.corpus.languages == {"de": 2, "en": 2, "German": 1, "": 1, "de-AT": 1}
    assert told.corpus.vocabulary > told.corpus.tokens > 0
    assert told.corpus.recordings == 7
    assert (told.normaliser.language, told.normaliser.unit) == (None, "by script")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Clips without a language</th><td>1" in page
    assert note in page


def test_clips_of_one_language_are_normalised_in_it(judge: Judge) -> None:
    told = judge("German", "de-AT", "de")
    assert (told.normaliser.language, told.normaliser.unit) == ("de", "word")


def test_an_unknown_language_ends_it_before_a_model_is_opened(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenModel, "__init__", None)  # not called
    with pytest.raises(DataError, match=r"manifest\.jsonl:2: the checkpoint has no language 'xx'"):
        judge("de", "xx")
