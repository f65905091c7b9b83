"""Texts that a normaliser cannot take: told before the measurement, or a verdict on the clip."""

# ruff: noqa: RUF001 (letters of other scripts are what is tested)

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from exporter.errors import DataError
from exporter.recipe import Data
from exporter.system.progress import silent
from exporter.validate import pipeline
from exporter.validate.corpus.index import Corpora
from exporter.validate.gate import judge as gate
from exporter.validate.scoring.compare import compare
from exporter.validate.scoring.normaliser import normaliser
from tests.support.judging import GATE, SENTENCE, listed, measurement, output

DIGITS = "1" * 5000


def judged(ours: list[str], theirs: list[str], language: str = "en") -> Any:
    rows: list[Any] = []
    how: dict[str, Any] = {"rows": rows, "write": rows.append}
    sides = [output(texts, measurement(len(texts), 0.05)) for texts in (ours, theirs)]
    words = normaliser(language, Path("nowhere")).words
    return compare(listed(len(ours)), range(len(ours)), *sides, words, **how)


def test_a_transcript_that_cannot_be_normalised_is_wrong_in_all_words() -> None:
    case = judged([SENTENCE] * 60, [DIGITS, *[SENTENCE] * 59])
    assert case.candidate.scores.deletions.tolist()[:2] == [len(SENTENCE.split()), 0]
    assert (case.newly_unusable, case.newly_empty, case.changed.tolist()) == (1, 0, [0])
    assert gate.figures(case.candidate, 1.0).unusable_texts == 1
    assert "unusable_texts" not in gate.figures(case.reference, 1.0).model_dump()
    verdict = gate.judge(case, GATE, 1)
    (texts,) = (check for check in verdict.checks if check.name == "texts")
    assert texts.passed is False
    assert "1 texts cannot be normalised, and count as wrong in all words." in texts.sentence
    assert case.texts(0).candidate == ""


def test_both_sides_may_be_odd() -> None:
    case = judged([DIGITS, *[SENTENCE] * 59], [DIGITS, *[SENTENCE] * 59])
    assert (case.newly_unusable, case.changed.tolist()) == (0, [])
    assert case.candidate.scores.errors.sum() == len(SENTENCE.split())


@pytest.mark.parametrize(
    ("language", "ours", "theirs"),
    [
        ("hi", "प्राचीन संस्कृतियों", "परचन ससकतय"),
        ("ar", "مَلِك", "مُلْك"),
        ("he", "בָּרָא", "בֹּרֵא"),
        ("tr", "ısı", "isi"),
        ("th", "ปี่", "ปี้"),
        ("zh", "我们走吧", "我们走吗"),
        ("de", "gut 👍", "gut 👎"),
        ("en", "twenty one cafes", "21 cafés"),
    ],
)
def test_other_words_are_a_changed_clip(language: str, ours: str, theirs: str) -> None:
    """Also where the normaliser makes them the same words, as English's does here."""
    case = judged([ours] * 3, [ours, theirs, ours], language)
    assert case.changed.tolist() == [1]
    case = judged([ours] * 3, [f" {ours}. "] * 3, language)
    assert case.changed.tolist() == []


def test_a_chinese_sentence_is_no_loop() -> None:
    """Spaces between the characters would let it compress like one."""
    sentence = "今天天气很好我们一起去公园散步然后回家吃晚饭看电视" * 2
    case = judged([SENTENCE] * 2, [sentence] * 2, "zh")
    assert case.newly_looping == 0
    assert judged([SENTENCE] * 2, ["谢谢" * 20] * 2, "zh").newly_looping == 2


def test_true_texts_are_normalised_before_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.1), 16000)
    soundfile.write(tmp_path / "b.wav", np.full(1600, 0.1), 16000)
    rows = [{"audio": "a.wav", "text": "fine"}, {"audio": "b.wav", "text": DIGITS}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    place = tmp_path / "index"
    place.mkdir()
    corpus = Corpora(place, silent).open(Data(clips="m.jsonl"), tmp_path)
    reader = SimpleNamespace(listed=corpus)
    subject = cast("Any", SimpleNamespace(corpus=corpus, reader=reader, folder=tmp_path))
    monkeypatch.setattr(pipeline, "language_of", lambda _subject: "en")
    with pytest.raises(DataError, match=r"m\.jsonl:2: the text normaliser fails on it") as caught:
        pipeline._check_texts([subject])
    assert len(str(caught.value)) < 400
    monkeypatch.setattr(pipeline, "language_of", lambda _subject: "de")
    pipeline._check_texts([subject, subject])


def test_a_truth_that_changed_is_told_too() -> None:
    clips = [replace(clip, text=DIGITS, where="m.jsonl:7") for clip in listed(2)]
    sides = [output([SENTENCE] * 2, measurement(2)) for _ in range(2)]
    rows: list[Any] = []
    how: dict[str, Any] = {"rows": rows, "write": rows.append}
    words = normaliser("en", Path("nowhere")).words
    with pytest.raises(DataError, match=r"m\.jsonl:7"):
        compare(clips, range(2), *sides, words, **how)
