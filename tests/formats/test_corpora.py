"""Corpora as people store them: tables, archives, segments and cuts; and how they break."""

import gzip
import io
import json
import operator
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from exporter.errors import DataError
from exporter.formats.audio.cutting import OVERSHOOT_S
from exporter.formats.clips import Clip, list_clips
from exporter.formats.clips.listing import ClipList
from exporter.formats.clips.names import Seen
from exporter.formats.clips.opening import Opener
from exporter.recipe import Data
from exporter.system.progress import silent
from exporter.validate.corpus.index import Corpora, Corpus, sha256_of

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

RATE = 16_000
TEXTS = ("open the door", "close it", "seven, eight")


def sound(level: float, seconds: float = 0.1, kind: str = "WAV") -> bytes:
    """A file of audio with one value, which tells it from others."""
    written = io.BytesIO()
    soundfile.write(written, np.full(round(seconds * RATE), level), RATE, format=kind)
    return written.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording of three seconds, whose value is 0.1 in the first, 0.2 and then 0.3."""
    place = tmp_path / "data"
    place.mkdir()
    samples = np.repeat([0.1, 0.2, 0.3], RATE)
    soundfile.write(place / "call.wav", samples, RATE, subtype="PCM_16")
    return place


def opened(source: Path, tmp_path: Path, **how: Any) -> Corpus:
    place = tmp_path / f"index-{len(list(tmp_path.iterdir()))}"
    place.mkdir()
    return Corpora(place, silent, **how).open(Data(clips=str(source)), Path())


def levels(clips: Iterator[Clip] | Corpus) -> list[float]:
    """The values of clips, which tell what is heard."""
    found = []
    with Opener() as opener:
        for clip in clips:
            audio_of = opener.open(clip)
            read = soundfile.read(io.BytesIO(audio_of) if isinstance(audio_of, bytes) else audio_of)
            found.append(round(float(np.mean(read[0])), 3))
    return found


def refused(source: Path, *words: str, text: bool = True) -> None:
    """A list is refused, in three short lines at most."""
    with pytest.raises(DataError) as caught:
        list(list_clips(source, text=text))
    told(caught.value, *words)


def told(error: DataError, *words: str) -> None:
    message = str(error)
    assert len(message.splitlines()) <= 3
    assert len(message) < 1500
    for word in words:
        assert word in message


def unreadable(source: Path, tmp_path: Path, *words: str) -> None:
    """The list is good, and a clip cannot be heard, which is told with its place."""
    list(list_clips(source))
    with pytest.raises(DataError) as caught:
        opened(source, tmp_path)
    told(caught.value, *words)


class TestKaldi:
    """Segments of recordings."""

    @pytest.fixture
    def kaldi(self, folder: Path) -> Path:
        (folder / "wav.scp").write_text("call call.wav\n")
        (folder / "segments").write_text("u1 call 0 1\nu2 call 1.0 2.0\nu3 call 2.5 -1\n")
        (folder / "text").write_text("".join(f"u{n} {text}\n" for n, text in enumerate(TEXTS, 1)))
        return folder

    def test_each_segment_is_heard_alone(self, kaldi: Path, tmp_path: Path) -> None:
        (kaldi / "utt2spk").write_text("u1 a\nu2 b\nu3 a\n")
        clips = list(list_clips(kaldi))
        assert [(clip.id, clip.text, clip.speaker) for clip in clips] == [
            ("u1", TEXTS[0], "a"),
            ("u2", TEXTS[1], "b"),
            ("u3", TEXTS[2], "a"),
        ]
        assert [clip.duration_s for clip in clips] == [1.0, 1.0, 0.0]
        assert {clip.recording for clip in clips} == {"call"}
        corpus = opened(kaldi, tmp_path)
        assert corpus.durations_s.tolist() == [1.0, 1.0, 0.5]
        assert levels(corpus) == levels(iter(clips)) == [0.1, 0.2, 0.3]
        assert corpus.sha256 == sha256_of(Data(clips=str(kaldi)), Path(), tmp_path)
        assert list(list_clips(kaldi / "wav.scp")) == clips

    def test_without_texts(self, kaldi: Path) -> None:
        (kaldi / "text").unlink()
        assert [clip.text for clip in list_clips(kaldi, text=False)] == ["", "", ""]
        refused(kaldi, "text", "No such file")

    @pytest.mark.parametrize(
        ("segments", "words"),
        [
            ("u1 call 0\n", ("segments:1", "an utterance, its recording, start and end")),
            ("u1 call 0 1 A\n", ("segments:1", "channels")),
            ("u1 call 1 1\n", ("segments:1", "it ends at 1 s")),
            ("u1 call 2 1\n", ("segments:1", "it ends at 1 s, and begins at 2 s")),
            ("u1 call nan 1\n", ("segments:1", "the start must be seconds")),
            ("u1 call 0 1e9\n", ("segments:1", "the end must be seconds")),
            ("u1 call -3 1\n", ("segments:1", "the start must be seconds")),
            ("u1 gone 0 1\n", ("segments:1", "gone has no line in wav.scp")),
            ("u1 call 0 1\r\nu1 call 1 2\r\n", ("segments:2", "listed twice")),
            ("u9 call 0 1\n", ("segments:1", "u9 has no line in text")),
            ("u1 call 0 1\n", ("text:2", "u2 has no line in segments")),
            (b"\xff call 0 1\n", ("segments:1", "UTF-8")),
        ],
    )
    def test_segments_with_faults(
        self, kaldi: Path, segments: str | bytes, words: tuple[str, ...]
    ) -> None:
        written = segments if isinstance(segments, bytes) else segments.encode()
        (kaldi / "segments").write_bytes(written)
        refused(kaldi, *words)

    def test_pipes(self, kaldi: Path) -> None:
        (kaldi / "wav.scp").write_text("call sph2pipe -f wav call.sph |\n")
        refused(kaldi, "wav.scp:1", "commands and pipes are refused")

    def test_a_segment_beyond_its_recording(self, kaldi: Path, tmp_path: Path) -> None:
        """What Kaldi itself allows is cut at the end; more is told with the segment's line."""
        (kaldi / "text").write_text("u1 x\n")
        (kaldi / "segments").write_text(f"u1 call 2 {3 + OVERSHOOT_S}\n")
        assert opened(kaldi, tmp_path).durations_s.tolist() == [1.0]
        for segment in ("u1 call 2 3.6", "u1 call 3 4", "u1 call 700 800"):
            (kaldi / "segments").write_text(segment)
            unreadable(kaldi, tmp_path, "text:1", "call.wav ends after 3.000 s", "is asked for")

    def test_files_in_another_order(self, kaldi: Path) -> None:
        lines = (kaldi / "text").read_text().splitlines()
        (kaldi / "text").write_text("\n".join(reversed(lines)))
        assert [clip.text for clip in list_clips(kaldi)] == [*TEXTS]


class TestManifests:
    """Lines of JSON that name a part of a file."""

    def row(self, **more: Any) -> dict[str, Any]:
        return {"audio_filepath": "call.wav", "text": "x", **more}

    def test_offset_and_duration_name_a_part(self, folder: Path, tmp_path: Path) -> None:
        rows = [
            self.row(offset=0.0, duration=1.0, speaker="a"),
            self.row(offset=1, duration="1"),
            self.row(offset=2.0),
        ]
        (folder / "m.jsonl").write_bytes(
            b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode()
        )
        clips = list(list_clips(folder / "m.jsonl"))
        assert [clip.id for clip in clips] == [
            "call.wav",
            "call-000001000.wav",
            "call-000002000.wav",
        ]
        assert [clip.duration_s for clip in clips] == [1.0, 1.0, 0.0]
        assert {clip.recording for clip in clips} == {"call.wav"}
        assert levels(opened(folder / "m.jsonl", tmp_path)) == [0.1, 0.2, 0.3]

    def test_all_of_a_file_is_not_copied(self, folder: Path, tmp_path: Path) -> None:
        (folder / "m.jsonl").write_text(json.dumps(self.row(offset=0, duration=3.0)))
        (clip,) = opened(folder / "m.jsonl", tmp_path)
        assert clip.path == (folder / "call.wav").resolve()

    def test_all_of_a_file_is_the_same_clip_with_an_offset_and_without(
        self, folder: Path, tmp_path: Path
    ) -> None:
        """Reports on it stay valid, and what was heard in it is found again."""
        whole: list[dict[str, Any]] = [{}, {"offset": 0}, {"offset": 0.0, "duration": 3.0}]
        part = [{"offset": 0, "duration": 2.0}, {"offset": 0, "recording": "call"}]
        found = []
        for number, more in enumerate([*whole, *part]):
            (folder / "m.jsonl").write_text(json.dumps(self.row(**more)))
            data, place = Data(clips="m.jsonl"), tmp_path / f"read-{number}"
            place.mkdir()
            read = Corpora(place, silent).open(data, folder).sha256
            assert sha256_of(data, folder, place) == read
            found.append(read)
        assert len(set(found[:3])) == 1
        assert len(set(found)) == 3

    def test_a_duration_is_trusted_and_no_audio_is_read(self, folder: Path) -> None:
        (folder / "call.wav").write_text("no audio")
        (folder / "m.jsonl").write_text(json.dumps(self.row(duration=7.5)))
        (clip,) = list_clips(folder / "m.jsonl")
        assert (clip.duration_s, clip.size_bytes) == (7.5, 8)

    @pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), -1, [1], True, 1e12])
    @pytest.mark.parametrize("name", ["duration", "offset"])
    def test_times_that_are_none(self, folder: Path, name: str, value: Any) -> None:
        rows = [self.row(), self.row(**{name: value})]
        (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
        refused(folder / "m.jsonl", "m.jsonl:2", f"{name} must be seconds")

    def test_the_same_part_twice(self, folder: Path) -> None:
        rows = [self.row(offset=1.0, duration=1.0)] * 2
        (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
        refused(folder / "m.jsonl", "m.jsonl:2", "listed twice")

    def test_links_in_a_circle(self, folder: Path) -> None:
        (folder / "a.wav").symlink_to("b.wav")
        (folder / "b.wav").symlink_to("a.wav")
        (folder / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "x"}))
        refused(folder / "m.jsonl", "m.jsonl:1", "a.wav")

    @pytest.mark.parametrize(
        ("kind", "subtype"),
        [
            *[("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("WAV", "PCM_16")],
            *[("WAV", "PCM_24"), ("WAV", "PCM_U8"), ("WAV", "FLOAT")],
        ],
    )
    def test_a_part_has_the_samples_of_the_whole(
        self, tmp_path: Path, kind: str, subtype: str
    ) -> None:
        rng = np.random.default_rng(0)
        path = tmp_path / f"x.{kind.lower()}"
        soundfile.write(path, rng.uniform(-0.5, 0.5, (RATE, 2)), RATE, subtype, format=kind)
        (tmp_path / "m.jsonl").write_text(
            json.dumps({"audio": path.name, "text": "x", "offset": 0.25, "duration": 0.5})
        )
        (clip,) = opened(tmp_path / "m.jsonl", tmp_path)
        whole, _ = soundfile.read(path, dtype="float32")
        part, _ = soundfile.read(clip.path, dtype="float32")
        assert np.array_equal(part, whole[RATE // 4 : RATE * 3 // 4])


class TestParquet:
    """Tables as `datasets` writes them."""

    def table(self, **columns: Any) -> Any:
        sounds = [
            {"bytes": sound(level, kind="FLAC"), "path": f"{n}.flac"}
            for n, level in enumerate((0.1, 0.2, 0.3))
        ]
        known = {"audio": sounds, "text": [*TEXTS], **columns}
        return arrow.table({name: value for name, value in known.items() if value is not None})

    def test_rows_are_clips(self, folder: Path, tmp_path: Path) -> None:
        columns = {"speaker_id": [7, 7, 8], "duration": [0.1] * 3, "language": ["en"] * 3}
        file = folder / "test-00000-of-00001.parquet"
        parquet.write_table(self.table(**columns), file, row_group_size=2)
        clips = list(list_clips(folder))
        assert [(clip.text, clip.speaker, clip.language) for clip in clips] == [
            (text, speaker, "en") for text, speaker in zip(TEXTS, "778", strict=True)
        ]
        assert [clip.id for clip in clips] == [f"{file.name}/{n:06}.flac" for n in range(3)]
        assert [clip.duration_s for clip in clips] == [0.1] * 3
        assert levels(iter(clips)) == levels(iter(reversed(clips)))[::-1] == [0.1, 0.2, 0.3]
        corpus = opened(folder, tmp_path)
        assert corpus.sha256 == sha256_of(Data(clips=str(folder)), Path(), tmp_path)
        assert list(list_clips(file)) == clips

    def test_names_and_splits(self, folder: Path) -> None:
        """An `id` names clips; of several splits, that for tests is taken."""
        (folder / "data").mkdir()
        table = self.table(id=["x", "y", "z"])
        for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
            parquet.write_table(table, folder / "data" / f"{name}.parquet")
        assert [clip.id for clip in list_clips(folder)] == ["x.flac", "y.flac", "z.flac"]
        (folder / "data" / "test-00000-of-00001.parquet").rename(folder / "data" / "dev.parquet")
        refused(folder, "several splits: dev, train", "Name one")
        parquet.write_table(self.table(id=["x", "x", "z"]), folder / "data" / "dev.parquet")
        refused(folder / "data" / "dev.parquet", "dev.parquet: row 1", "listed twice")

    def test_no_audio_is_read_for_a_list(self, folder: Path, tmp_path: Path) -> None:
        """Bytes of audio that are damaged are found when they are read."""
        file = folder / "x.parquet"
        noise = np.random.default_rng(0).bytes(50_000)
        sounds = [{"bytes": b"fLaC" + noise, "path": "0.flac"}]
        table = arrow.table({"audio": sounds, "text": ["x"]})
        parquet.write_table(table, file, write_page_checksum=True)
        whole = bytearray(file.read_bytes())
        whole[20_000] ^= 1
        file.write_bytes(whole)
        assert [clip.text for clip in list_clips(file)] == ["x"]
        unreadable(file, tmp_path, "x.parquet: row 0", "cannot be read as audio")

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"audio": None}, ("needs `audio`", "it has text (string)")),
            ({"audio": ["a.flac"] * 3}, ("needs `audio` ({bytes, path})", "audio (string)")),
            ({"text": None}, ("one of text, sentence", "it has audio (struct")),
            ({"text": [1, 2, 3]}, ("row 0", "text must be a string, not 1")),
            ({"text": ["a", None, "b"]}, ("row 1", "text must be a string, not None")),
            ({"duration": [0.1, float("nan"), 0.1]}, ("row 1", "duration must be seconds")),
            ({"duration": [0.1, -1.0, 0.1]}, ("row 1", "duration must be seconds")),
        ],
    )
    def test_columns_with_faults(
        self, folder: Path, columns: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        parquet.write_table(self.table(**columns), folder / "x.parquet")
        refused(folder / "x.parquet", "x.parquet", *words)

    def test_texts_are_not_needed_to_transcribe(self, folder: Path) -> None:
        parquet.write_table(self.table(text=None), folder / "x.parquet")
        assert len(list(list_clips(folder, text=False))) == 3

    def test_damaged_files(self, folder: Path) -> None:
        file = folder / "x.parquet"
        parquet.write_table(self.table(), file)
        whole = file.read_bytes()
        for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], os.urandom(4000)):
            file.write_bytes(content)
            refused(file, "x.parquet cannot be read as a parquet file", "copy it again")

    @pytest.mark.parametrize("content", [None, b"", {"bytes": None, "path": "gone.flac"}])
    def test_rows_without_audio(self, folder: Path, tmp_path: Path, content: Any) -> None:
        row = content if isinstance(content, dict) else {"bytes": content, "path": None}
        table = arrow.table(
            {"audio": [{"bytes": sound(0.1), "path": "a.wav"}, row], "text": ["x", "y"]}
        )
        parquet.write_table(table, folder / "x.parquet")
        unreadable(folder, tmp_path, "x.parquet: row 1", "no audio bytes")

    def test_audio_beside_the_table(self, folder: Path, tmp_path: Path) -> None:
        sounds = [{"bytes": None, "path": "call.wav"}]
        types = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        table = arrow.table({"audio": arrow.array(sounds, types), "text": ["x"]})
        parquet.write_table(table, folder / "x.parquet")
        assert opened(folder, tmp_path).durations_s.tolist() == [3.0]


def tar(path: Path, *files: tuple[str, bytes], **how: Any) -> Path:
    """Write an archive of files."""
    with tarfile.open(path, "w", **how) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


class TestTars:
    """Archives of WebDataset and NeMo."""

    FILES = (
        ("a.flac", sound(0.1, kind="FLAC")),
        ("a.json", json.dumps({"text": TEXTS[0], "duration": 0.1, "speaker": "s"}).encode()),
        ("sub/b.x.wav", sound(0.2)),
        ("sub/b.txt", f"{TEXTS[1]}\r\n".encode("utf-8-sig")),
        ("c.cls", b"7"),
        ("d.txt", TEXTS[2].encode()),
        ("d.wav", sound(0.3)),
    )

    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    def test_samples_are_neighbours(self, folder: Path, tmp_path: Path, form: int) -> None:
        for name in ("b.tar", "a.tar"):
            tar(folder / name, *self.FILES, format=form)
        clips = list(list_clips(folder))
        names = ["a.flac", "sub/b.x.wav", "d.wav"]
        assert [clip.id for clip in clips] == [f"{t}.tar/{name}" for t in "ab" for name in names]
        assert [clip.text for clip in clips] == [*TEXTS, *TEXTS]
        assert (clips[0].duration_s, clips[0].speaker) == (0.1, "s")
        assert all(clip.size_bytes for clip in clips)
        assert levels(iter(clips)) == [0.1, 0.2, 0.3] * 2
        corpus = opened(folder, tmp_path)
        assert levels(corpus) == [0.1, 0.2, 0.3] * 2
        assert corpus.sha256 == sha256_of(Data(clips=str(folder)), Path(), tmp_path)
        assert list(list_clips(folder / "a.tar")) == clips[:3]

    def test_names_in_an_archive_are_no_paths(self, folder: Path, tmp_path: Path) -> None:
        """Whatever they say, nothing is written but into the folder of the run."""
        for name in ("/etc/x.wav", "../../x.wav", "a/../../b.wav", "\x1b[2J.wav"):
            tar(folder / "x.tar", (name, sound(0.1)), (name.replace(".wav", ".txt"), b"x"))
            before = {path for path in tmp_path.rglob("*") if "index" not in str(path)}
            (clip,) = opened(folder, tmp_path)
            assert clip.path.is_relative_to(tmp_path)
            assert before == {path for path in tmp_path.rglob("*") if "index" not in str(path)}

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ((("a.txt", b"x"),), ("x.tar: a has no audio",)),
            ((("a.wav", b"x"),), ("x.tar: a", "no text")),
            ((("a.wav", b"x"), ("a.flac", b"x"), ("a.txt", b"")), ("a has several sounds",)),
            ((("a.wav", b"x"), ("a.txt", b"\xff")), ("a.txt", "UTF-8")),
            ((("a.wav", b"x"), ("a.json", b"{")), ("a.json: not JSON",)),
            ((("a.wav", b"x"), ("a.json", b"[" * 100_000)), ("a.json: not JSON",)),
            ((("a.wav", b"x"), ("a.json", b"[]")), ("a.json: expected an object",)),
            ((("a.wav", b"x"), ("a.json", b'{"text": 3}')), ("x.tar: a", "must be a string")),
            ((("a.wav", b"x"), ("a.txt", bytes(2 << 20))), ("a.txt: larger than 1 MiB",)),
            ((("a.wav", b"x"), ("a.wav", b"x"), ("a.txt", b"")), ("'a.wav' is listed twice",)),
            (
                (("a.wav", b"x"), ("a.txt", b""), ("b.cls", b""), ("a.wav", b"x"), ("a.txt", b"")),
                ("x.tar: a", "listed twice"),
            ),
        ],
    )
    def test_samples_with_faults(
        self, folder: Path, files: tuple[tuple[str, bytes], ...], words: tuple[str, ...]
    ) -> None:
        refused(tar(folder / "x.tar", *files), *words)

    def test_empty_and_damaged_audio(self, folder: Path, tmp_path: Path) -> None:
        for content, words in ((b"", "is empty"), (b"noise", "cannot be read as audio")):
            tar(folder / "x.tar", ("a.wav", content), ("a.txt", b"x"))
            unreadable(folder, tmp_path, "x.tar: a", words)

    def test_damaged_archives(self, folder: Path) -> None:
        whole = tar(folder / "x.tar", *self.FILES).read_bytes()
        for content in (b"", b"x" * 2000, os.urandom(5000)):
            (folder / "x.tar").write_bytes(content)
            refused(folder / "x.tar", "x.tar cannot be read as a tar archive")
        (folder / "x.tar").write_bytes(whole[: whole.index(b"sub/b.x.wav") + 1000])
        refused(folder / "x.tar", "cut off inside 'sub/b.x.wav'", "copy it again")
        (folder / "x.tar.gz").write_bytes(gzip.compress(whole))
        refused(folder / "x.tar.gz", "compressed as a whole", "unpack it")
        (folder / "x.tar").unlink()
        refused(folder, "x.tar.gz is compressed")

    def test_archives_that_claim_more_than_they_have(self, folder: Path) -> None:
        """Nothing is read into memory because a header says so."""
        for size, kind in ((1 << 40, tarfile.REGTYPE), (1 << 33, tarfile.XHDTYPE)):
            header = tarfile.TarInfo("a.wav")
            header.size, header.type = size, kind
            (folder / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
            os.truncate(folder / "x.tar", 16 << 30)  # sparse
            with (folder / "x.tar").open("rb") as stream:
                assert len(stream.read(10)) == 10
            if kind == tarfile.REGTYPE:
                refused(folder / "x.tar", "cut off inside 'a.wav'")
            else:
                refused(folder / "x.tar", "a header longer than 1 MiB")

    def test_links_and_devices_are_no_audio(self, folder: Path) -> None:
        with tarfile.open(folder / "x.tar", "w") as archive:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                member = tarfile.TarInfo("a.wav")
                member.type, member.linkname = kind, "/etc/passwd"
                archive.addfile(member)
        assert list(list_clips(folder / "x.tar")) == []

    def test_nemo_has_a_manifest_beside(self, folder: Path, tmp_path: Path) -> None:
        for shard in (0, 12):
            files = [(f"{n}.wav", sound(level)) for n, level in enumerate((0.1, 0.2, 0.3))]
            tar(folder / f"audio_{shard}.tar", *files)
        rows = [
            {"audio_filepath": f"{n}.wav", "text": text, "duration": 0.1, "shard_id": shard}
            for shard in (0, 12)
            for n, text in enumerate(TEXTS)
        ]
        manifest = folder / "tarred_audio_manifest.json"
        manifest.write_text("\n".join(map(json.dumps, rows)))
        clips = list(list_clips(folder))
        assert [clip.text for clip in clips] == [*TEXTS, *TEXTS]
        assert [clip.duration_s for clip in clips] == [0.1] * 6
        assert levels(opened(folder, tmp_path)) == [0.1, 0.2, 0.3] * 2
        for changes, words in (
            ({"shard_id": 3}, "shard_id 3 is the number of no archive"),
            ({"shard_id": None}, "shard_id None"),
            ({"audio_filepath": "7.wav"}, "audio_12.tar has no file '7.wav'"),
            ({"audio_filepath": 7}, "audio_12.tar has no file 7"),
        ):
            manifest.write_text("\n".join(map(json.dumps, [*rows[:-1], {**rows[-1], **changes}])))
            refused(folder, "tarred_audio_manifest.json:6", words)


class TestLhotse:
    """Cuts, as lhotse 1.33 writes them."""

    def cut(self, **changes: Any) -> dict[str, Any]:
        recording = {
            "id": "call",
            "sources": [{"type": "file", "channels": [0], "source": "call.wav"}],
            "sampling_rate": RATE,
            "num_samples": 3 * RATE,
            "duration": 3.0,
            "channel_ids": [0],
        }
        spoken = {"id": "s", "recording_id": "call", "channel": 0, "language": "English"}
        supervisions = [
            {**spoken, "start": 0.5, "duration": 0.4, "text": "door", "speaker": "a"},
            {**spoken, "start": 0.0, "duration": 0.4, "text": "open the", "speaker": "a"},
        ]
        cut = {"id": "cut-1", "start": 1.0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
        cut |= {"supervisions": supervisions, "recording": recording}
        return {**cut, **changes}

    @pytest.mark.parametrize("name", ["cuts.jsonl.gz", "train_cuts.jsonl.gz", "cuts.jsonl"])
    def test_a_cut_is_a_part(self, folder: Path, tmp_path: Path, name: str) -> None:
        cuts = [self.cut(), self.cut(id="all", start=0, duration=3.0)]
        lines = "\n".join(map(json.dumps, cuts)).encode()
        (folder / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
        (folder / "recordings.jsonl.gz.bak").touch()
        one, all_of_it = list_clips(folder)
        assert (one.id, one.text, one.speaker, one.language) == (
            "cut-1",
            "open the door",
            "a",
            "English",
        )
        assert (one.duration_s, one.recording) == (1.0, "call")
        assert (all_of_it.part, all_of_it.path) == (None, folder / "call.wav")
        assert levels(opened(folder, tmp_path)) == [0.2, 0.2]

    def test_one_channel_of_several(self, folder: Path, tmp_path: Path) -> None:
        both = np.stack([np.full(RATE, 0.1), np.full(RATE, 0.3)], axis=1)
        soundfile.write(folder / "call.wav", both, RATE)
        cut = self.cut(start=0, duration=1.0, channel=1)
        cut["recording"] |= {"duration": 1.0}
        cut["recording"]["sources"][0]["channels"] = [0, 1]
        (folder / "cuts.jsonl").write_text(json.dumps(cut))
        assert levels(opened(folder, tmp_path)) == [0.3]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"type": "MixedCut"}, ("a MixedCut is made of several", "save_audios")),
            ({"type": "PaddingCut"}, ("a PaddingCut",)),
            ({"id": 3}, ("id must be a name",)),
            ({"recording": None}, ("recording is missing",)),
            ({"start": "x"}, ("start must be seconds",)),
            ({"duration": float("nan")}, ("duration must be seconds",)),
            ({"duration": 0}, ("duration must be above 0",)),
            ({"channel": 2}, ("channel 2 is none of its recording's",)),
            ({"supervisions": []}, ("no text",)),
            ({"supervisions": [3]}, ("supervisions must be a list",)),
            ({"supervisions": [{"start": 0, "text": 3}]}, ("text must be a string",)),
            ({"supervisions": [{"start": None, "text": "x"}]}, ("start must be seconds",)),
        ],
    )
    def test_cuts_with_faults(
        self, folder: Path, changes: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        (folder / "cuts.jsonl").write_text(json.dumps(self.cut(**changes)))
        refused(folder, "cuts.jsonl:1", *words)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"type": "command"}, "of type 'command'"),
            ({"type": "url"}, "of type 'url'"),
            ({"type": "memory"}, "of type 'memory'"),
            ({"type": "shar"}, "of type 'shar'"),
        ],
    )
    def test_sources_that_are_no_files(
        self, folder: Path, changes: dict[str, str], words: str
    ) -> None:
        cut = self.cut()
        cut["recording"]["sources"][0] |= changes
        (folder / "cuts.jsonl").write_text(json.dumps(cut))
        refused(folder, "cuts.jsonl:1", words)
        cut = self.cut()
        cut["recording"]["transforms"] = [{"name": "Speed", "kwargs": {"factor": 0.9}}]
        (folder / "cuts.jsonl").write_text(json.dumps(cut))
        refused(folder, "cuts.jsonl:1", "transforms")

    def test_shar(self, folder: Path, tmp_path: Path) -> None:
        """Shards of cuts beside archives, as `CutSet.to_shar` writes them."""
        source = {"type": "shar", "channels": [0], "source": ""}
        for shard, level in enumerate((0.1, 0.3)):
            cut = self.cut(id=f"c/{shard}", start=0)
            cut["recording"] |= {"sources": [source], "duration": 1.0, "num_samples": RATE}
            meta = json.dumps(cut["recording"]).encode()
            audio = (f"c/{shard}.flac", sound(level, 1.0, "FLAC"))
            tar(folder / f"recording.00000{shard}.tar", audio, (f"c/{shard}.json", meta))
            lines = gzip.compress(json.dumps(cut).encode())
            (folder / f"cuts.00000{shard}.jsonl.gz").write_bytes(lines)
        clips = list(list_clips(folder))
        assert [(clip.id, clip.text) for clip in clips] == [
            ("c/0", "open the door"),
            ("c/1", "open the door"),
        ]
        assert levels(opened(folder, tmp_path)) == [0.1, 0.3]
        assert list(list_clips(folder / "cuts.000001.jsonl.gz")) == clips[1:]
        tar(folder / "recording.000001.tar", ("c/7.flac", b""))
        refused(folder, "cuts.000001.jsonl.gz:1", "recording.000001.tar has no audio of 'c/1'")
        (folder / "recording.000000.tar").unlink()
        refused(folder, "recording.000000.tar cannot be read: No such file")

    def test_damaged_and_endless_files(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = gzip.compress(json.dumps(self.cut()).encode())
        for content in (whole[:40], whole[:10] + b"\xff" * 100, b"no gzip"):
            (folder / "cuts.jsonl.gz").write_bytes(content)
            refused(folder, "cuts.jsonl.gz")
        (folder / "cuts.jsonl.gz").write_bytes(gzip.compress(bytes(100 << 20)))
        refused(folder, "cuts.jsonl.gz:1", "longer than 1 MiB")
        monkeypatch.setattr("exporter.formats.clips.readers.tables.MAX_FILE_BYTES", 100_000)
        (folder / "cuts.jsonl.gz").write_bytes(gzip.compress(b"\n" * 1_000_000))
        refused(folder, "cuts.jsonl.gz:100001", "unpacked, it is larger than")


ODD = (None, 3, -1, 1e400, 10**400, "x", "", [], [None], {}, True, float("nan"), "\ud83d", "\0")


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data."""
    yield place
    inside = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else inside:
        yield from places_in(inner, (*place, key))


@pytest.mark.parametrize("row", [TestLhotse().cut(), TestManifests().row(offset=1, speaker="s")])
def test_any_value_in_any_place_is_taken_or_refused(folder: Path, row: dict[str, Any]) -> None:
    for place, value in product(list(places_in(row))[1:], ODD):
        changed = json.loads(json.dumps(row))
        above = reduce(operator.getitem, place[:-1], changed)
        above[place[-1]] = value
        (folder / "m.jsonl").write_text(json.dumps(changed))
        try:
            assert len(list(list_clips(folder / "m.jsonl"))) == 1
        except DataError as error:
            told(error, "m.jsonl")


@pytest.mark.parametrize("name", ["x.parquet", "x.tar", "cuts.jsonl.gz"])
def test_bytes_that_changed_are_taken_or_refused(folder: Path, name: str) -> None:
    path, rng = folder / name, np.random.default_rng(0)
    if name == "x.parquet":
        parquet.write_table(TestParquet().table(speaker=[1, 2, 3], duration=[0.1] * 3), path)
    elif name == "x.tar":
        tar(path, *TestTars.FILES)
    else:
        path.write_bytes(gzip.compress(json.dumps(TestLhotse().cut()).encode()))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(100):
        damaged = whole[: rng.integers(len(whole))] if rng.random() < 0.1 else whole.copy()
        if len(damaged) == len(whole):
            damaged[rng.integers(len(whole), size=rng.integers(1, 9))] = rng.integers(256)
        path.write_bytes(damaged.tobytes())
        with suppress(DataError), Opener() as opener:
            for clip in list_clips(path, present=False):
                opener.open(clip)


LAYOUTS = {
    "metadata.csv": {"metadata.csv": "file_name,text\ncall.wav,\n"},
    "test.tsv": {"test.tsv": "client_id\tpath\tsentence\ns\tcall.wav\t\n"},
    "manifest.jsonl": {"manifest.jsonl": '{"audio": "call.wav", "text": ""}\n\n'},
    "Kaldi": {"wav.scp": "call.wav call.wav\n", "text": "call.wav\n", "utt2spk": "call.wav s\n"},
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
def test_marks_and_line_ends_of_other_systems(
    folder: Path, files: dict[str, str], mark: bytes, ends: str
) -> None:
    """And a text that is empty, as that of a recording without speech."""
    for name, content in files.items():
        (folder / name).write_bytes(mark + content.replace("\n", ends).encode())
    (clip,) = list_clips(folder)
    assert (clip.id, clip.text, clip.path) == ("call.wav", "", folder / "call.wav")


def test_a_folder_of_two_kinds(folder: Path) -> None:
    tar(folder / "x.tar", ("a.wav", sound(0.1)), ("a.txt", b"x"))
    (folder / "wav.scp").write_text("u1 call.wav\n")
    (folder / "text").write_text("u1 x\n")
    refused(folder, "several lists of clips: *.tar, wav.scp")


def test_plans_cost_no_audio_and_little_memory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speakers, seconds and bytes are known of each clip; nothing is opened for them."""
    rows = [
        {"audio": "call.wav", "text": "x", "offset": n / 1000, "duration": 0.5, "speaker": n % 7}
        for n in range(2000)
    ]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(soundfile, "SoundFile", None)
    listed = ClipList(tmp_path / "list.jsonl", list_clips(folder / "m.jsonl"))
    assert len(listed) == 2000
    assert set(listed.durations_s) == {0.5}
    assert [*listed.speakers[:9]] == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    held = [listed.durations_s, listed.sizes, listed.speakers, listed.rows.offsets]
    assert sum(each.itemsize for each in held) == 28
    (clip,) = (clip for n, clip in enumerate(list_clips(folder / "m.jsonl")) if n == 1234)
    assert listed[1234] == clip
    assert list(listed)[1234] == clip


def test_names_are_told_apart() -> None:
    seen = Seen()
    assert all(seen.add(f"clip-{number}") for number in range(20_000))
    assert not any(seen.add(f"clip-{number}") for number in range(0, 20_000, 7))
    assert seen.add("\udcff")
    assert seen.add("clip-20000")


@pytest.fixture
def faulty(folder: Path) -> Callable[[int], Path]:
    """A manifest with a number of good clips, a missing, an empty and a damaged one."""

    def made(good: int) -> Path:
        rows = [{"audio": f"{n}.wav", "text": f"text {n}"} for n in range(good)]
        for row in rows:
            (folder / str(row["audio"])).write_bytes(sound(0.1, 0.01))
        (folder / "empty.wav").touch()
        (folder / "bad.wav").write_text("no audio")
        bad = [{"audio": f"{name}.wav", "text": "x"} for name in ("gone", "empty", "bad")]
        (folder / "m.jsonl").write_text("\n".join(map(json.dumps, [*rows[:1], *bad, *rows[1:]])))
        return folder / "m.jsonl"

    return made


def test_clips_that_cannot_be_read_are_left_out_where_that_is_allowed(
    faulty: Callable[[int], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = faulty(5)
    with pytest.raises(DataError, match=r"m\.jsonl:2: .*gone\.wav does not exist"):
        opened(manifest, tmp_path)
    corpus = opened(manifest, tmp_path, skip_unreadable=True)
    assert [clip.id for clip in corpus] == [f"{n}.wav" for n in range(5)]
    assert corpus.unreadable == ("gone.wav", "empty.wav", "bad.wav")
    assert [record.message.partition(": ")[0] for record in caplog.records] == ["left out"] * 3
    data = Data(clips=str(manifest))
    assert corpus.sha256 == sha256_of(data, Path(), tmp_path, corpus.unreadable)
    manifest.write_text(manifest.read_text() + "\n{")
    with pytest.raises(DataError, match=r"m\.jsonl:9"):  # a fault of the list itself
        opened(manifest, tmp_path, skip_unreadable=True)


def test_none_that_can_be_read(folder: Path, tmp_path: Path) -> None:
    (folder / "m.jsonl").write_text(json.dumps({"audio": "gone.wav", "text": "x"}))
    with pytest.raises(DataError, match="lists no clips that can be read"):
        opened(folder / "m.jsonl", tmp_path, skip_unreadable=True)


def test_a_part_of_a_stream(folder: Path, tmp_path: Path) -> None:
    """A file whose end is not known is read up to the part."""
    soundfile.write(folder / "call.flac", soundfile.read(folder / "call.wav")[0], RATE)
    stream = bytearray((folder / "call.flac").read_bytes())
    stream[21:26] = bytes([stream[21] & 0xF0, 0, 0, 0, 0])  # no number of samples
    (folder / "call.flac").write_bytes(stream)
    (folder / "m.jsonl").write_text(
        json.dumps({"audio": "call.flac", "text": "x", "offset": 1.5, "duration": 1.0})
    )
    (clip,) = opened(folder / "m.jsonl", tmp_path)
    samples, _ = soundfile.read(clip.path)
    assert np.allclose([samples[0], samples[-1]], [0.2, 0.3], atol=1e-3)
