"""Corpora in an object store, through pyarrow's S3 client and a server on loopback."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter.errors import DataError, RecipeError
from exporter.formats.clips import list_clips
from exporter.formats.clips.addresses import Remote, source_at
from exporter.formats.clips.opening import Opener
from exporter.recipe import Data, read
from exporter.system.progress import silent
from exporter.validate.corpus.index import Corpora
from tests.formats.test_corpora import sound, tar
from tests.support.s3 import Store, serving

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

LEVELS = (0.1, 0.2, 0.3)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with serving() as served:
        yield served


def table() -> bytes:
    sounds = [{"bytes": sound(level), "path": f"{level}.wav"} for level in LEVELS]
    written = io.BytesIO()
    columns = {"audio": sounds, "text": ["a", "b", "c"], "speaker": [1, 1, 2]}
    parquet.write_table(arrow.table(columns), written)
    return written.getvalue()


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Store:
    """Two splits in tables, and an archive."""
    store.objects["set/test-00000-of-00001.parquet"] = table()
    store.objects["set/train-00000-of-00001.parquet"] = table()
    files = [(f"{n}.wav", sound(level)) for n, level in enumerate(LEVELS)]
    texts = [(f"{n}.json", json.dumps({"text": "x"}).encode()) for n in range(3)]
    members = [each for pair in zip(files, texts, strict=True) for each in pair]
    store.objects["tars/shard-0.tar"] = tar(tmp_path / "x.tar", *members).read_bytes()
    return store


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("set", "test-00000-of-00001.parquet/000000.wav"),
        ("set/train-00000-of-00001.parquet", "train-00000-of-00001.parquet/000000.wav"),
        ("tars/", "shard-0.tar/0.wav"),
        ("tars/shard-0.tar", "shard-0.tar/0.wav"),
    ],
)
def test_clips_of_a_bucket(filled: Store, tmp_path: Path, key: str, first: str) -> None:
    clips = list(list_clips(Remote(filled.url(key))))
    assert clips[0].id == first
    assert len(clips) == 3
    with Opener() as opener:
        for clip, level in zip(clips, LEVELS, strict=True):
            encoded = opener.open(clip)
            assert isinstance(encoded, bytes)
            samples, _ = soundfile.read(io.BytesIO(encoded))
            assert np.allclose(samples, level, atol=1e-3)
    corpus = Corpora(tmp_path, silent).open(Data(clips=filled.url(key)), Path())
    assert [clip.id for clip in corpus] == [clip.id for clip in clips]
    assert all(clip.path.is_file() for clip in corpus)


def test_what_cannot_be_read_is_told(filled: Store) -> None:
    filled.objects["other/a.wav"] = b""
    filled.objects["both/a.tar"] = filled.objects["both/a.parquet"] = b""
    filled.objects["bad/a.parquet"] = table()[:-10]
    filled.objects["bad.tar"] = b"x" * 3000
    for key, words in (
        ("none", "no clips at s3://bucket/none: there is nothing"),
        ("other", "neither *.parquet nor *.tar"),
        ("both", "both *.parquet and *.tar"),
        ("bad", "s3://bucket/bad/a.parquet cannot be read as a parquet file"),
        ("bad.tar", "s3://bucket/bad.tar cannot be read as a tar archive"),
    ):
        with pytest.raises(DataError, match="s3://bucket") as caught:
            list(list_clips(Remote(filled.url(key))))
        assert words in str(caught.value)
        assert "endpoint_override" not in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 3


def test_a_store_that_refuses(filled: Store) -> None:
    filled.broken = True
    with pytest.raises(DataError, match=r"s3://bucket/set cannot be read: .*ACCESS_DENIED"):
        list(list_clips(Remote(filled.url("set"))))


def test_an_object_that_is_gone(filled: Store) -> None:
    clips = list(list_clips(Remote(filled.url("tars"))))
    del filled.objects["tars/shard-0.tar"]
    with Opener() as opener, pytest.raises(DataError, match=r"shard-0\.tar: 0: .*cannot be read"):
        opener.open(clips[0])


def test_keys_are_not_taken_into_data(tmp_path: Path) -> None:
    """A recipe, its artifact and its report are published."""
    with pytest.raises(DataError, match="AWS_ACCESS_KEY_ID"):
        source_at(Path(), "s3://key:secret@bucket/set")
    text = "name: x\ncheckpoint: a/b\ntargets: [{kind: aoti}]\ndata: {clips: 's3://k:s@bucket/x'}\n"
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError, match="keep keys and passwords"):
        read(tmp_path / "x.yaml")
    shown = Data(clips="s3://bucket/set?endpoint_override=10.0.0.1").shown
    assert shown == "s3://bucket/set"
