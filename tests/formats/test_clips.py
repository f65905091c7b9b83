"""Every layout of clips gives the same corpus, and every bad line is told with file and line."""

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import soundfile
from huggingface_hub import constants

from exporter.errors import DataError, HubError
from exporter.formats.clips import Clip
from exporter.recipe import Data
from exporter.system.progress import silent
from exporter.validate.corpus.dataset import dataset_clips
from exporter.validate.corpus.index import Corpora, Corpus
from tests.support.hub import File, Hub, reads_large

TEXTS = {"a.wav": "open the door", "b.wav": "", "c.wav": "seven, eight"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(TEXTS, 1):
        soundfile.write(tmp_path / name, np.full(1600 * number, 0.1), 16000)
    return tmp_path


def corpus(source: Path, **how: Any) -> Corpus:
    """A corpus with an index of its own."""
    place = source.parent / f"index-{uuid4().hex}"
    place.mkdir()
    return Corpora(place, silent).open(Data(clips=source.name, **how), source.parent)


def read_clips(source: Path, **how: Any) -> list[Clip]:
    return list(corpus(source, **how))


def write_lines(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(audio: str, text: str) -> list[object]:
    return [{audio: name, text: words} for name, words in TEXTS.items()]


@pytest.mark.parametrize("audio", ["audio", "audio_filepath", "file_name", "path"])
@pytest.mark.parametrize("text", ["text", "sentence", "transcription", "transcript"])
def test_manifests_of_every_spelling(folder: Path, audio: str, text: str) -> None:
    write_lines(folder / "manifest.jsonl", *rows(audio, text), "")
    clips = read_clips(folder)
    assert [(clip.id, clip.text) for clip in clips] == list(TEXTS.items())
    assert [clip.duration_s for clip in clips] == pytest.approx([0.1, 0.2, 0.3])
    assert clips == read_clips(folder / "manifest.jsonl")


def test_audiofolder_tables(folder: Path) -> None:
    write_lines(
        folder / "metadata.csv", "file_name,transcription,language", "a.wav,open the door,en",
        "b.wav,,en", 'c.wav,"seven, eight",en',
    )  # fmt: skip
    clips = read_clips(folder)
    assert [(clip.id, clip.text) for clip in clips] == list(TEXTS.items())
    assert {clip.language for clip in clips} == {"en"}
    write_lines(folder / "metadata.jsonl", {"file_name": "a.wav", "transcription": "x"})
    assert len(read_clips(folder)) == 1


def test_a_language_by_any_of_its_names(folder: Path) -> None:
    rows = [
        {"audio": "a.wav", "text": "x", "lang": "pt-BR"},
        {"audio": "b.wav", "text": "x", "locale": " de "},
        {"audio": "c.wav", "text": "x", "language": "", "locale": None},
    ]
    manifest = write_lines(folder / "m.jsonl", *rows)
    assert [clip.language for clip in read_clips(manifest)] == ["pt-BR", "de", None]


def test_common_voice(folder: Path) -> None:
    (folder / "clips").mkdir()
    (folder / "a.wav").rename(folder / "clips" / "a.wav")
    tsv = write_lines(folder / "test.tsv", "client_id\tpath\tsentence", 'x\ta.wav\the said "go')
    (clip,) = read_clips(tsv)
    assert (clip.text, clip.speaker, clip.recording) == ('he said "go', "x", None)


def test_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "61" / "70968"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "61-70968-0000.flac", np.full(1600, 0.1), 16000)
    write_lines(chapter / "61-70968.trans.txt", "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT")
    (clip,) = read_clips(tmp_path)
    assert clip.id == "61/70968/61-70968-0000.flac"
    assert clip.text == "HE BEGAN A CONFUSED COMPLAINT"
    assert (clip.speaker, clip.recording) == ("61", "70968")
    (chapter / "61-70968.trans.txt").write_text("LJ001 X\n")
    (chapter / "61-70968-0000.flac").rename(chapter / "LJ001.flac")
    assert [clip.speaker for clip in read_clips(tmp_path)] == [None]


@pytest.mark.parametrize("name", ["speaker", "speaker_id", "client_id"])
@pytest.mark.parametrize(
    ("value", "speaker"), [("ann", "ann"), (17, "17"), (" b ", "b"), ("", None), (None, None)]
)
def test_speakers(folder: Path, name: str, value: object, speaker: str | None) -> None:
    row = {"audio": "a.wav", "text": "x", name: value, "session": 3}
    (clip,) = read_clips(write_lines(folder / "m.jsonl", row))
    assert (clip.speaker, clip.recording) == (speaker, "3")


BAD = {
    "not json": "{",
    "a list": ["a.wav", "text"],
    "no audio": {"text": "x"},
    "no text": {"audio": "a.wav"},
    "text of the wrong type": {"audio": "a.wav", "text": 3},
    "audio of the wrong type": {"audio": {"bytes": ""}, "text": "x"},
    "language of the wrong type": {"audio": "a.wav", "text": "x", "language": 3},
    "speaker of the wrong type": {"audio": "b.wav", "text": "x", "speaker": {"id": 3}},
    "speaker that is no number": {"audio": "b.wav", "text": "x", "speaker_id": 1.5},
    "speaker that is true": {"audio": "b.wav", "text": "x", "client_id": True},
    "recording without end": {"audio": "b.wav", "text": "x", "recording": "r" * 1001},
    "half a speaker": {"audio": "b.wav", "text": "x", "speaker": "\ud83d"},
    "a number without end": {"audio": "b.wav", "text": "x", "session": 1 << 64},
    "pipe": {"audio": "sox a.wav -t wav - |", "text": "x"},
    "empty path": {"audio": " ", "text": "x"},
    "nul in the path": {"audio": "a\0.wav", "text": "x"},
    "missing file": {"audio": "nowhere.wav", "text": "x"},
    "a folder": {"audio": ".", "text": "x"},
    "offset": {"audio": "b.wav", "text": "x", "offset": 1.5},
    "twice": {"audio": "a.wav", "text": "x"},
    "half a character": {"audio": "b.wav", "text": "\ud83d"},
}


@pytest.mark.parametrize("row", BAD.values(), ids=BAD)
def test_bad_lines_name_file_and_line(folder: Path, row: object) -> None:
    write_lines(folder / "manifest.jsonl", {"audio": "a.wav", "text": "fine"}, "", row)
    with pytest.raises(DataError, match=r"manifest\.jsonl:3: ") as caught:
        read_clips(folder)
    assert len(str(caught.value).splitlines()) <= 3


def test_bad_sources(folder: Path) -> None:
    for path, words in ((folder / "no", "no clips at"), (folder, "none of manifest.jsonl")):
        with pytest.raises(DataError, match=words):
            read_clips(path)
    (folder / "metadata.csv").write_text("file_name,text\na.wav\n")
    with pytest.raises(DataError, match=r"metadata\.csv:2"):
        read_clips(folder)
    (folder / "manifest.jsonl").write_text("\n")
    with pytest.raises(DataError, match="lists no clips"):
        read_clips(folder)
    (folder / "manifest.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="UTF-8"):
        read_clips(folder)
    (folder / "z.wav").write_bytes(b"noise")
    write_lines(folder / "manifest.jsonl", {"audio": "z.wav", "text": "x"})
    with pytest.raises(DataError, match="cannot be read as audio"):
        read_clips(folder)


def test_a_sample_is_random_repeatable_and_in_order(folder: Path) -> None:
    names = [f"{number:03}.wav" for number in range(100)]
    for name in names:
        (folder / name).write_bytes((folder / "a.wav").read_bytes())
    manifest = write_lines(folder / "m.jsonl", *({"audio": name, "text": ""} for name in names))
    ids = [clip.id for clip in read_clips(manifest, max_clips=10, seed=1)]
    assert ids == sorted(ids)
    assert ids != names[:10]
    assert ids == [clip.id for clip in read_clips(manifest, max_clips=10, seed=1)]
    assert ids != [clip.id for clip in read_clips(manifest, max_clips=10, seed=2)]


def test_the_digest_sees_audio_and_text(folder: Path) -> None:
    manifest = write_lines(folder / "m.jsonl", *rows("audio", "text"))
    before = corpus(manifest).sha256
    assert before == corpus(manifest).sha256
    soundfile.write(folder / "a.wav", np.full(1600, 0.2), 16000)
    louder = corpus(manifest).sha256
    write_lines(manifest, *rows("audio", "text")[:2], {"audio": "c.wav", "text": "other"})
    assert len({before, louder, corpus(manifest).sha256}) == 3


def test_the_digest_has_speakers_where_there_are_any(folder: Path) -> None:
    """Without them it is as it was before clips had speakers."""
    row = {"audio": "a.wav", "text": "ü", "language": "de"}
    sound = hashlib.sha256((folder / "a.wav").read_bytes()).hexdigest()
    plain = json.dumps(["a.wav", sound, "ü", "de"]).encode() + b"\n"
    manifest = write_lines(folder / "m.jsonl", {**row, "speaker": None})
    assert corpus(manifest).sha256 == hashlib.sha256(plain).hexdigest()
    digests = {corpus(manifest).sha256}
    for origin in ({"speaker": "x"}, {"speaker": "y"}, {"recording": "x"}):
        digests.add(corpus(write_lines(manifest, {**row, **origin})).sha256)
    assert len(digests) == 4


@pytest.fixture
def hub(folder: Path, loopback: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A Hub with one dataset of three rows, in the layout that `datasets` pushes."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sounds = [{"bytes": (folder / name).read_bytes(), "path": name} for name in TEXTS]
    columns = {"sentence": list(TEXTS.values()), "speaker": [1, 2, 3], "session": [0.5] * 3}
    columns |= {"locale": ["en", "de", None]}
    table = arrow.table({"audio": sounds, **columns})
    parquet.write_table(table, folder / "test.parquet")
    data = File((folder / "test.parquet").read_bytes(), True)
    names = ("en/test-00000-of-00001.parquet", "de/test-00000-of-00001.parquet")
    files = {"README.md": File(b"# speech", False), **dict.fromkeys(names, data)}
    loopback.api.create("datasets/org/speech", files=files)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return loopback


DATA = Data(dataset="org/speech", config="en", split="test")


@pytest.mark.usefixtures("hub")
def test_a_hub_dataset(tmp_path: Path) -> None:
    clips = Corpora(tmp_path, silent).open(DATA, Path())
    assert [clip.text for clip in clips] == list(TEXTS.values())
    assert [clip.duration_s for clip in clips] == pytest.approx([0.1, 0.2, 0.3])
    assert [(clip.speaker, clip.recording) for clip in clips] == [
        ("1", None),
        ("2", None),
        ("3", None),
    ]
    assert [clip.language for clip in clips] == ["en", "de", None]
    assert len(list(dataset_clips(DATA.model_copy(update={"max_clips": 2})))) == 2
    with pytest.raises(DataError, match="split train"):
        list(dataset_clips(DATA.model_copy(update={"split": "train"})))


def test_a_hub_dataset_is_listed_without_its_audio(hub: Hub, folder: Path) -> None:
    """Only what is heard is written, and only for the run."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(folder / "test.parquet").to_pylist()
    table[2]["audio"]["bytes"] = None
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(table), folder / "x")
    name = "en/test-00000-of-00001.parquet"
    files = {name: File((folder / "x").read_bytes(), True)}
    hub.api.create("datasets/org/broken", files=files)
    data = DATA.model_copy(update={"dataset": "org/broken"})
    assert [clip.id for clip in dataset_clips(data)] == [f"test/{n:06}.wav" for n in range(3)]
    assert not list((folder / "cache").rglob("*.wav"))
    place = folder / "index"
    place.mkdir()
    corpora = Corpora(place, silent)
    heard = corpora.reader(corpora.listed(data, Path()), (2,)).at(0)
    assert [clip.path.read_bytes() for clip in heard] == [
        (folder / name).read_bytes() for name in ("a.wav", "b.wav")
    ]
    assert len(list(place.rglob("*.wav"))) == 2
    with pytest.raises(DataError, match="dataset org/broken, row 2: no audio bytes"):
        corpora.open(data, Path())


def test_a_dataset_is_fetched_once_and_as_the_hub_has_it(hub: Hub) -> None:
    with hub.failing("flip", reads_large, times=1):
        first = list(dataset_clips(DATA))
    assert sum(reads_large(one) for one in hub.requests) == 2
    hub.requests.clear()
    assert list(dataset_clips(DATA)) == first
    assert [one.path for one in hub.requests] == ["/api/datasets/org/speech/revision/main"]


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"dataset": "org/none"}, "the Hub has no dataset org/none", "Check the id"),
        ({"revision": "v9"}, "org/speech has no revision 'v9'", "one of: main"),
        ({"dataset": "org/wh..at"}, "org/wh..at is not a Hub id", "or local clips"),
    ],
)
def test_what_the_hub_refuses_of_a_dataset_is_explained(
    hub: Hub, changes: dict[str, str], first: str, second: str
) -> None:
    with pytest.raises(HubError) as caught:
        list(dataset_clips(DATA.model_copy(update=changes)))
    lines = str(caught.value).splitlines()
    assert (first in lines[0], second in lines[1], len(lines)) == (True, True, 2)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("how", ["silence", "trickle"])
@pytest.mark.parametrize("what", ["/api/datasets", "/resolve/", "/storage/"])
def test_a_hub_that_does_not_answer_is_given_up(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str, what: str
) -> None:
    monkeypatch.setenv("EXPORTER_HUB_TIMEOUT", "0.1")
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.1)
    with (
        hub.failing(how, lambda asked: what in asked.path),
        pytest.raises(HubError, match="does not answer"),
    ):
        list(dataset_clips(DATA))
    assert len(list(dataset_clips(DATA))) == 3
