"""Every layout of clips gives the same clips, and every bad line is told with file and line."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from exporter.errors import DataError, HubError
from exporter.formats.clips import digest, read_clips
from exporter.recipe import Data
from validate.dataset import dataset_clips

TEXTS = {"a.wav": "open the door", "b.wav": "", "c.wav": "seven, eight"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(TEXTS, 1):
        soundfile.write(tmp_path / name, np.full(1600 * number, 0.1), 16000)
    return tmp_path


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


def test_common_voice(folder: Path) -> None:
    (folder / "clips").mkdir()
    (folder / "a.wav").rename(folder / "clips" / "a.wav")
    tsv = write_lines(folder / "test.tsv", "client_id\tpath\tsentence", 'x\ta.wav\the said "go')
    assert [clip.text for clip in read_clips(tsv)] == ['he said "go']


def test_librispeech(tmp_path: Path) -> None:
    chapter = tmp_path / "61" / "70968"
    chapter.mkdir(parents=True)
    soundfile.write(chapter / "61-70968-0000.flac", np.full(1600, 0.1), 16000)
    write_lines(chapter / "61-70968.trans.txt", "61-70968-0000 HE BEGAN A CONFUSED COMPLAINT")
    (clip,) = read_clips(tmp_path)
    assert clip.id == "61/70968/61-70968-0000.flac"
    assert clip.text == "HE BEGAN A CONFUSED COMPLAINT"


BAD = {
    "not json": "{",
    "a list": ["a.wav", "text"],
    "no audio": {"text": "x"},
    "no text": {"audio": "a.wav"},
    "text of the wrong type": {"audio": "a.wav", "text": 3},
    "audio of the wrong type": {"audio": {"bytes": ""}, "text": "x"},
    "language of the wrong type": {"audio": "a.wav", "text": "x", "language": 3},
    "pipe": {"audio": "sox a.wav -t wav - |", "text": "x"},
    "empty path": {"audio": " ", "text": "x"},
    "nul in the path": {"audio": "a\0.wav", "text": "x"},
    "missing file": {"audio": "nowhere.wav", "text": "x"},
    "a folder": {"audio": ".", "text": "x"},
    "offset": {"audio": "b.wav", "text": "x", "offset": 1.5},
    "twice": {"audio": "a.wav", "text": "x"},
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
    before = digest(read_clips(manifest))
    assert before == digest(read_clips(manifest))
    soundfile.write(folder / "a.wav", np.full(1600, 0.2), 16000)
    louder = digest(read_clips(manifest))
    write_lines(manifest, *rows("audio", "text")[:2], {"audio": "c.wav", "text": "other"})
    assert len({before, louder, digest(read_clips(manifest))}) == 3


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub with one dataset of three rows, in the layout that `datasets` pushes."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sounds = [{"bytes": (folder / name).read_bytes(), "path": name} for name in TEXTS]
    table = arrow.table({"audio": sounds, "sentence": list(TEXTS.values()), "speaker": [1, 2, 3]})
    parquet.write_table(table, folder / "test-00000-of-00001.parquet")
    names = ["README.md", "en/test-00000-of-00001.parquet", "de/test-00000-of-00001.parquet"]
    info = SimpleNamespace(
        id="org/speech", sha="c0ffee", siblings=[SimpleNamespace(rfilename=n) for n in names]
    )
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_args, **_how: info)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda _id, name, **_how: str(folder / Path(name).name)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder


@pytest.mark.usefixtures("hub")
def test_a_hub_dataset() -> None:
    data = Data(dataset="org/speech", config="en", split="test")
    clips = dataset_clips(data)
    assert [clip.text for clip in clips] == list(TEXTS.values())
    assert [clip.duration_s for clip in clips] == pytest.approx([0.1, 0.2, 0.3])
    assert len(dataset_clips(data.model_copy(update={"max_clips": 2}))) == 2
    with pytest.raises(DataError, match="split train"):
        dataset_clips(data.model_copy(update={"split": "train"}))


@pytest.mark.usefixtures("hub")
def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_how: object) -> None:
        msg = "no route\nto host"
        raise ConnectionError(msg)

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", refuse)
    with pytest.raises(
        HubError, match="cannot fetch the dataset org/speech from the Hub: no route"
    ):
        dataset_clips(Data(dataset="org/speech"))
