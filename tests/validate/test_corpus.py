"""A corpus on disk: read once, cut into parts, sampled by duration."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter.formats.clips import opening
from exporter.recipe import Data
from exporter.system.files import sha256_file
from exporter.system.progress import silent
from exporter.validate.corpus.index import Corpora, Corpus, RowFile


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A hundred and one clips of 10 to 110 ms, in no order."""
    folder = tmp_path / "clips"
    folder.mkdir()
    lengths = np.random.default_rng(0).permutation(101) + 10
    for number, length in enumerate(lengths):
        soundfile.write(folder / f"{number:03}.wav", np.full(16 * length, 0.1), 16_000)
    names = sorted(path.name for path in folder.iterdir())
    rows = [json.dumps({"audio": name, "text": f"text {name}", "language": "en"}) for name in names]
    (folder / "manifest.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def corpus(clips: Path, tmp_path: Path) -> Corpus:
    return Corpora(tmp_path, silent).open(Data(clips="clips"), tmp_path)


def test_any_clip_can_be_had_again(corpus: Corpus) -> None:
    every = list(corpus)
    assert len(corpus) == len(every) == 101
    assert [corpus[place] for place in (100, 0, 57)] == [every[100], every[0], every[57]]
    assert every[57].text == "text 057.wav"
    assert [clip.duration_s for clip in every] == corpus.durations_s.tolist()
    assert corpus.languages == {"en"}


def test_one_reading_serves_whoever_names_the_same_data(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = opening.sha256_file

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(opening, "sha256_file", noted)
    corpora = Corpora(tmp_path, silent)
    one = corpora.open(Data(clips="clips"), tmp_path)
    assert corpora.open(Data(clips=str(clips)), Path()) is one
    assert len(hashed) == len(set(hashed)) == 101
    some = corpora.open(Data(clips="clips", max_clips=10), tmp_path)
    assert len(some) == len(hashed) - 101 == 10
    assert some.sha256 != one.sha256


def test_a_sample_has_all_durations(corpus: Corpus) -> None:
    places = corpus.sample(10, seed=0)
    assert places == corpus.sample(10, seed=0) == sorted(set(places))
    assert places != corpus.sample(10, seed=1)
    ranks = sorted(np.argsort(np.argsort(corpus.durations_s))[places])
    assert len(ranks) == 10
    assert {9, 10, 11} >= set(np.diff(ranks).tolist())
    assert corpus.sample(101, seed=3) == corpus.sample(500, seed=3) == list(range(101))


def test_the_typical_clips_are_short_middling_and_long(corpus: Corpus) -> None:
    assert [corpus[place].duration_s for place in corpus.typical()] == [0.010, 0.060, 0.110]


def test_a_folder_whose_name_is_not_unicode(clips: Path, tmp_path: Path) -> None:
    """It is a path like any other; only what a report shows must be text."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    clips.rename(place)
    corpus = Corpora(tmp_path, silent).open(Data(clips=str(place)), Path())
    assert all(clip.path.is_file() for clip in corpus)


def test_rows_are_hashed_as_they_are_written(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.jsonl")
    with rows.writing() as write:
        for number in range(3):
            write({"number": number, "text": "ü"})
    assert rows.sha256 == sha256_file(rows.path)
    assert [rows[place]["number"] for place in (2, 0, 1)] == [2, 0, 1]
    assert list(rows) == [rows[place] for place in range(len(rows))]
    assert [row["number"] for row in rows.some([2, 0])] == [2, 0]
