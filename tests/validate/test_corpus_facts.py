"""The corpus is judged: copies, wordless and misplaced texts, durations, tokens, the original."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.artifact.report import Check, CorpusFacts
from exporter.recipe import Data, Gate
from exporter.system.progress import silent
from exporter.validate.corpus.facts import plausible_wer
from exporter.validate.corpus.index import Corpora, Corpus
from exporter.validate.corpus.misplaced import Misplaced, misplaced
from exporter.validate.gate import judge as gate
from exporter.validate.measure.transcripts import ClipResult
from exporter.validate.scoring.compare import Comparison, ModelOutput, compare
from tests.support.judging import GATE, SENTENCE, case, comparison, listed, measurement, output


def check(judged: gate.Judgement, name: str) -> Check:
    return next(check for check in judged.checks if check.name == name)


def facts_with(**changes: Any) -> CorpusFacts:
    return case().corpus_facts().model_copy(update=changes)


def heard_by_the_original(texts: list[str], truth: list[str], sounds: Any = None) -> Comparison:
    clips = [replace(clip, text=text) for clip, text in zip(listed(len(truth)), truth, strict=True)]
    sides = [output(texts, measurement(len(texts), seconds)) for seconds in (0.1, 0.05)]
    rows: list[Any] = []
    how: dict[str, Any] = {"rows": rows, "write": rows.append, "sounds": sounds}
    return compare(clips, range(len(clips)), *sides, str.strip, **how)


def test_copies_of_a_clip_count_once() -> None:
    """Three recordings a hundred times are evidence of three."""
    sounds = np.arange(300, dtype=np.int64) % 3
    case_of_three = heard_by_the_original([SENTENCE] * 300, [SENTENCE] * 300, sounds)
    judged = gate.judge(case_of_three, GATE, files=9)
    clips = check(judged, "clips")
    assert (clips.passed, clips.value, clips.limit) == (None, 3, 50)
    assert clips.sentence == (
        "300 clips, 3 of them different recordings; the gate asks for at least 50."
    )
    assert clips.advice.startswith("Copies are no further evidence, also under other names.")
    assert judged.verdict == "undecided"
    notes = case_of_three.corpus_facts().notes
    assert "300 clips are 3 different recordings: copies count once." in notes
    assert "300 clips have only 1 different texts." in notes


@pytest.fixture
def copies(tmp_path: Path) -> Corpus:
    """Four files of two sounds: a copy under another name, and one in another format."""
    tone = np.sin(np.arange(8000) / 20).astype(np.float32) / 2
    soundfile.write(tmp_path / "a.wav", tone, 16_000)
    os.link(tmp_path / "a.wav", tmp_path / "b.wav")
    soundfile.write(tmp_path / "c.flac", soundfile.read(tmp_path / "a.wav")[0], 16_000)
    soundfile.write(tmp_path / "d.wav", tone, 8_000)
    rows = [{"audio": name, "text": "one"} for name in ("a.wav", "b.wav", "c.flac", "d.wav")]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "index").mkdir()
    return Corpora(tmp_path / "index", silent).open(Data(clips="."), tmp_path)


def test_a_copy_is_known_by_its_sound(copies: Corpus) -> None:
    one, copy, other_format, other_rate = copies.sounds.tolist()
    assert one == copy == other_format != other_rate


def test_texts_without_a_word_are_told_and_allowed() -> None:
    truth = [SENTENCE] * 98 + ["", " "]
    judged = heard_by_the_original([text.strip() for text in truth], truth)
    assert gate.judge(judged, GATE, files=9).verdict == "passed"
    assert judged.corpus_facts().wordless == 2
    assert "2 true texts have no word." in judged.corpus_facts().notes


def test_durations_are_told() -> None:
    one = case(clips=20)  # of 3 to 22 s
    facts = one.corpus_facts()
    assert facts.lacking == ("over 30 s",)
    assert "No clip lasts over 30 s." in facts.notes
    assert (facts.window_s, facts.over_window, facts.under_1_s) == (0, 0, 0)
    clips = [
        replace(clip, duration_s=length)
        for clip, length in zip(listed(3), (0.5, 40.0, 50.0), strict=True)
    ]
    measured = measurement(3, window_s=30.0, vocabulary=1000)
    outputs = (output([SENTENCE] * 3, measured) for _ in range(2))
    facts = comparison(clips, *outputs).corpus_facts()
    assert (facts.window_s, facts.over_window, facts.under_1_s) == (30, 2, 1)
    assert facts.lacking == ("5 to 15 s", "15 to 30 s")
    assert "No clip lasts 5 to 15 s or 15 to 30 s." in facts.notes
    clips = clips[:1] * 3
    outputs = (output([SENTENCE] * 3, measured) for _ in range(2))
    notes = comparison(clips, *outputs).corpus_facts().notes
    assert "No clip exceeds the window of 30 s: long recordings were not judged." in notes


def test_the_share_of_the_vocabulary_is_told() -> None:
    measured = measurement(2, vocabulary=1000)
    heard = [ClipResult(text=SENTENCE, tokens=5, distinct=ids) for ids in ((1, 2), (2, 3))]
    other = [ClipResult(text=SENTENCE, tokens=5, distinct=(7, 8, 9)) for _ in range(2)]
    sides = (ModelOutput(measured, heard, 1), ModelOutput(measured, other, 1))
    facts = comparison(listed(2), *sides).corpus_facts()
    assert (facts.tokens, facts.vocabulary) == (3, 1000)
    assert any("use 3 of 1,000 tokens: words that" in note for note in facts.notes)
    assert facts.languages == {"en": 2}


SUBJECTS = ["the cat", "a dog", "my sister", "our teacher", "the old man", "every child"]
VERBS = ["opens", "paints", "buys", "forgets", "repairs", "describes"]
OBJECTS = ["the garden gate", "a small boat", "three letters", "that bridge", "some green tea"]
TEXTS = [f"{s} {v} {o}" for s in SUBJECTS for v in VERBS for o in OBJECTS]


def found_in(truth: list[str], heard: list[str]) -> Misplaced:
    """What is found where the original hears `heard`."""
    scores = heard_by_the_original(heard, truth).reference.scores
    return misplaced(scores.errors, scores.words, truth.__getitem__, heard.__getitem__)


def test_shuffled_texts_are_found() -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = [TEXTS[place] for place in order]
    found = found_in(shuffled, TEXTS)
    assert found.clips > 0.5 * len(TEXTS)
    assert all(shuffled[other] == TEXTS[clip] for clip, other in found.pairs)


def test_texts_that_slipped_by_a_line_are_found() -> None:
    slipped = [*TEXTS[1:], TEXTS[0]]
    found = found_in(slipped, TEXTS)
    assert all((clip - other) % len(TEXTS) == 1 for clip, other in found.pairs)


@pytest.mark.parametrize("heard", [TEXTS, ["something else was said here"] * len(TEXTS)])
def test_texts_in_their_place_are_not_suspected(heard: list[str]) -> None:
    assert found_in(TEXTS, heard).clips == 0


def test_equal_texts_are_no_other_texts() -> None:
    truth = ["open the red door"] * 10 + ["close the green window"] * 10
    heard = ["shut that blue thing"] * 20
    assert found_in(truth, heard).clips == 0


def test_nothing_is_read_where_nothing_is_wrong() -> None:
    few = np.array([0, 1, 2]), np.array([10, 10, 10])
    assert misplaced(*few, lambda _: 1 / 0, lambda _: 1 / 0).clips == 0  # type: ignore[arg-type, return-value]


def test_misplaced_texts_leave_it_undecided() -> None:
    from exporter.artifact.report import MisplacedText

    one = MisplacedText(id="a.wav", reads_like="b.wav")
    judged = gate.judge(case(), GATE, 9, facts_with(misplaced=40, examples=(one,)))
    texts = check(judged, "true texts")
    assert (texts.passed, texts.value) == (None, 40)
    assert texts.sentence == (
        "The texts of 40 clips fit other clips better: a.wav reads like the text of b.wav."
    )
    assert "shifted, sorted or shuffled" in texts.advice
    assert judged.verdict == "undecided"
    assert "shifted, sorted or shuffled" in judged.sentence
    few = gate.judge(case(), GATE, 9, facts_with(misplaced=1, examples=(one,)))
    assert check(few, "true texts").passed is True
    assert (
        "The text of 1 clip fits another clip better: a.wav reads like"
        in check(few, "true texts").sentence
    )


def test_an_original_that_hears_nothing_leaves_it_undecided() -> None:
    """Both sides are wrong alike, so the difference alone would pass."""
    wrong = "something else was said in that other place there"
    one = case(right=wrong, hear=lambda _: wrong)
    judged = gate.judge(one, GATE, files=9)
    original = check(judged, "original")
    assert (original.passed, original.limit) == (None, 0.5)
    assert original.value is not None
    assert original.value > 0.8
    assert "gate.max_reference_wer" in original.advice
    assert judged.verdict == "undecided"
    raised = GATE.model_copy(update={"max_reference_wer": 1.0})
    assert check(gate.judge(one, raised, files=9), "original").passed is True


def test_an_implausible_original_is_told() -> None:
    words = SENTENCE.split()
    one = case(right=" ".join(["x"] * 3 + words[3:]), hear=lambda _: SENTENCE)
    told = check(gate.judge(one, GATE, 9, facts_with(plausible_wer=0.25)), "original")
    assert told.passed is True
    assert told.sentence.startswith("The original's own WER is 30.00 % (at most 50 % allowed).")
    assert "more than models of this family usually have (25 %)" in told.sentence
    usual = check(gate.judge(one, GATE, 9, facts_with(plausible_wer=0.4)), "original")
    assert "usually" not in usual.sentence
    assert plausible_wer("whisper", "en") < plausible_wer("whisper", "my")
    assert plausible_wer("another", "en") == 0


def test_the_limit_is_left_out_of_data_where_it_is_the_default() -> None:
    assert "max_reference_wer" not in Gate().model_dump()
    raised = Gate(max_reference_wer=0.8)
    assert Gate.model_validate(raised.model_dump()) == raised
    assert raised != Gate()
