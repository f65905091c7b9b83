"""Data as people have it: Kaldi, JSON arrays, NeMo, Common Voice; and files without a bound."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.errors import DataError
from exporter.formats.clips import Clip, list_clips
from exporter.recipe import Data
from exporter.system.progress import silent
from exporter.validate.corpus.index import Corpora

TEXTS = {"a.wav": "open the door", "b.wav": "close it"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in TEXTS:
        soundfile.write(tmp_path / name, np.full(1600, 0.1), 16000)
    return tmp_path


def texts(source: Path) -> dict[str, str]:
    return {clip.id: clip.text for clip in list_clips(source)}


def nemo(**more: Any) -> str:
    rows = [{"audio_filepath": name, "text": text, **more} for name, text in TEXTS.items()]
    return "\n".join(map(json.dumps, rows))


def refused(source: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        list(list_clips(source))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert len(message.splitlines()) <= 3
    assert len(message) < 1500
    for word in words:
        assert word in message


def test_kaldi(folder: Path) -> None:
    """Utterances have names of their own; paths are absolute, or relative to the folder."""
    (folder / "wav.scp").write_text(f"u1 a.wav\nu2\t{folder / 'b.wav'}\n")
    (folder / "text").write_text("u2 close it\nu1 open the door\n")
    (folder / "utt2spk").write_text("u1 s\nu2 s\n")
    assert texts(folder) == {"u1": "open the door", "u2": "close it"}
    clips = {clip.id: clip for clip in list_clips(folder)}
    assert clips["u1"].where == f"{folder / 'text'}:2"
    assert [clip.speaker for clip in clips.values()] == ["s", "s"]
    (folder / "utt2spk").write_text("u1 u1\nu2 u2\n")  # as for unknown speakers
    assert [clip.speaker for clip in list_clips(folder)] == [None, None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wav.scp": "u1 sox a.wav -t wav - |\n"}, ("wav.scp:1", "pipes are refused")),
        ({"wav.scp": "u1\n"}, ("wav.scp:1", "no path")),
        ({"wav.scp": "u1 a.ark:15\n"}, ("wav.scp:1", "does not exist")),
        ({"wav.scp": "u1 a.wav\nu1 b.wav\n"}, ("wav.scp:2", "u1 is listed twice")),
        ({"wav.scp": "u1 a.wav\nu3 b.wav\n"}, ("wav.scp:2", "u3 has no line in text")),
        ({"text": "u1 x\nu2 y\nu9 z\n"}, ("text:3", "u9 has no line in wav.scp")),
        ({"text": b"u1 caf\xe9\n"}, ("text:1", "UTF-8")),
        ({"text": None}, ("text", "No such file")),
        ({"segments": "u1 r 0 1\n"}, ("segments:1", "recording r has no line in wav.scp")),
        ({"utt2spk": "u1 s\n"}, ("wav.scp:2", "u2 has no line in utt2spk")),
        ({"utt2spk": "u1 s\nu2\n"}, ("utt2spk:2", "an utterance and its speaker")),
        ({"utt2spk": "u1 s\nu1 t\n"}, ("utt2spk:2", "listed twice")),
    ],
)
def test_kaldi_folders_with_faults(
    folder: Path, changes: dict[str, str | bytes | None], words: tuple[str, ...]
) -> None:
    files = {"wav.scp": "u1 a.wav\nu2 b.wav\n", "text": "u1 x\nu2 y\n", **changes}
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(folder, *words)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("start", ["", "\ufeff \n"])
def test_json_arrays(folder: Path, indent: int | None, start: str) -> None:
    rows = [{"audio": name, "text": text} for name, text in TEXTS.items()]
    for name in ("clips.json", "manifest.jsonl"):
        (folder / name).write_text(start + json.dumps(rows, indent=indent), encoding="utf-8")
        assert texts(folder / name) == TEXTS
    assert texts(folder) == TEXTS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[\n{"audio": "a.wav", "text": "x"},\n{"audio": "a.wav", "text": "y"}]', (":3", "twice")),
        ('[\n{"audio": "a.wav", "text": "x"}\n{"audio": "b.wav"}]', (":2", "neither a comma")),
        ('[{"audio": "a.wav", "text": "x"},\n{"audio"', (":2", "not an array")),
        ('[{"audio": "a.wav", "text": "x"}', (":1", "neither a comma")),
        ('["a.wav"]', (":1", "expected an object")),
        ("[" * 100_000, (":1",)),
        ('[{"audio": "a.wav", "text": "x"}] 1', ("something follows",)),
        ("[" + "9" * 5000 + "]", (":1",)),
        ("9" * 5000, (":1",)),
        ('{"data": []}', (":1", "no audio")),
        ("\x00" * 100, (":1",)),
    ],
)
def test_json_with_faults(folder: Path, text: str, words: tuple[str, ...]) -> None:
    (folder / "x.json").write_text(text)
    refused(folder / "x.json", "x.json", *words)


@pytest.mark.parametrize("name", ["manifest.json", "test_manifest.json", "nemo.jsonl"])
def test_a_folder_with_a_nemo_manifest(folder: Path, name: str) -> None:
    (folder / name).write_text(nemo(duration=0.1, offset=0.0))
    assert texts(folder) == TEXTS
    (folder / name).write_text(nemo(duration=0.1, offset="0"))
    assert texts(folder) == TEXTS
    for offset in (-1.5, "-1", "x", [1], True, float("nan"), float("inf"), 10**400):
        (folder / name).write_text(nemo(offset=offset))
        refused(folder, f"{name}:1", "offset")


def test_common_voice(folder: Path) -> None:
    """Its test split is taken among its tables, and nothing else may claim to be the data."""
    (folder / "clips").mkdir()
    for name in TEXTS:
        (folder / name).rename(folder / "clips" / name)
    lines = ["client_id\tpath\tsentence", *(f"x\t{name}\t{text}" for name, text in TEXTS.items())]
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        (folder / name).write_text("\n".join(lines))
    assert texts(folder) == TEXTS
    (folder / "nemo.json").write_text(nemo())
    refused(folder, "several lists of clips: nemo.json, test.tsv", "Name one")
    (folder / "nemo.json").unlink()
    (folder / "test.tsv").unlink()
    refused(folder, "several lists of clips: dev.tsv, train.tsv")


def test_several_kinds_of_data_in_one_folder(folder: Path) -> None:
    (folder / "one.json").write_text(nemo())
    (folder / "wav.scp").write_text("u1 a.wav\n")
    (folder / "text").write_text("u1 x\n")
    refused(folder, "one.json, wav.scp")
    (folder / "manifest.jsonl").write_text(nemo())  # ours decides
    assert texts(folder) == TEXTS


def test_what_is_not_listed_does_not_matter(folder: Path) -> None:
    """A dangling link, an empty recording and a folder with the name of one."""
    (folder / "manifest.jsonl").write_text(nemo())
    (folder / "x.flac").symlink_to("nowhere.flac")
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    assert texts(folder) == TEXTS
    for name in ("x.flac", "empty.wav", "folder.wav", "pipe.wav", "a" * 300 + ".wav"):
        row = json.dumps({"audio": name, "text": "x"})
        (folder / "manifest.jsonl").write_text(f"{nemo()}\n{row}\n")
        place = folder / "index"
        place.mkdir()
        with pytest.raises(DataError, match=r"manifest\.jsonl:3: ") as caught:
            Corpora(place, silent).open(Data(clips=folder.name), folder.parent)
        assert len(str(caught.value)) < 1000
        shutil.rmtree(place)


@pytest.mark.parametrize("name", ["manifest.jsonl", "metadata.csv", "test.tsv", "x.json", "text"])
def test_a_file_without_end_takes_no_memory(folder: Path, name: str) -> None:
    """Sparse files: one of 8 GB, and one line of 100 MB."""
    (folder / "wav.scp").write_text("u1 a.wav\n")
    source = folder if name == "text" else folder / name
    for size, words in ((8 << 30, "larger than"), (100 << 20, "longer than 1 MiB")):
        (folder / name).write_bytes(b"")
        os.truncate(folder / name, size)
        refused(source, name, words)


def test_a_field_without_end(folder: Path) -> None:
    (folder / "x.csv").write_text('file_name,text\na.wav,"' + "x\n" * 200_000)
    refused(folder / "x.csv", "x.csv:", "field larger than")
    (folder / "x.csv").write_text("file_name,text,text\na.wav,x,y\n")
    refused(folder / "x.csv", "x.csv:1", "same name")
    (folder / "x.json").write_text(" [" + " " * (33 << 20) + "]")
    refused(folder / "x.json", "larger than", "write long ones as lines")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.jsonl")
    refused(tmp_path / "manifest.jsonl", "not a regular file")
    refused(tmp_path, "has none of manifest.jsonl")
    refused(tmp_path / ("a" * 300), "File name too long")


def test_a_text_too_long_to_compare(folder: Path) -> None:
    (folder / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "x" * 100_001}))
    refused(folder / "m.jsonl", "m.jsonl:1", "100,001 characters")


def test_names_that_are_not_utf_8(folder: Path) -> None:
    r"""Bytes of a name show as \xNN in ids, which are published; half characters are refused."""
    odd = os.fsdecode(b"caf\xe9.wav")
    (folder / "a.wav").rename(folder / odd)
    (folder / "manifest.jsonl").write_text(json.dumps({"audio": odd, "text": "x"}))
    (clip,) = list_clips(folder)
    assert clip == Clip(r"caf\xe9.wav", folder / odd, "x", where=f"{folder / 'manifest.jsonl'}:1")
    for row in (
        {"audio": "\ud83d.wav", "text": "x"},
        {"audio": "b.wav", "text": "x\udce9"},
        {"audio": "b.wav", "text": "x", "language": "\ud83d"},
    ):
        (folder / "manifest.jsonl").write_text(json.dumps(row))
        refused(folder, "manifest.jsonl:1")
