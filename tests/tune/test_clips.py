"""The clips that a search ranks groups on, from wherever data may be."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exporter.cli import main
from exporter.errors import DataError
from exporter.formats.clips.addresses import Remote
from exporter.recipe import Recipe, read
from exporter.tune.clips import judging, ranking
from tests.support.s3 import Store, serving

LEVELS = (0.1, 0.2, 0.3)


def sound(level: float) -> bytes:
    written = io.BytesIO()
    soundfile.write(written, np.full(1600, level), 16000, format="WAV")
    return written.getvalue()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket with two tables of clips."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("EXPORTER_CACHE", str(tmp_path / "cache"))
    written = io.BytesIO()
    sounds = [{"bytes": sound(level), "path": f"{level}.wav"} for level in LEVELS]
    parquet.write_table(arrow.table({"audio": sounds, "text": ["a", "b", "c"]}), written)
    with serving() as served:
        served.objects["some/test.parquet"] = served.objects["judging/test.parquet"] = (
            written.getvalue()
        )
        yield served


def recipe_of(tmp_path: Path, clips: str) -> Recipe:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"name: tiny\ncheckpoint: a/b\ntargets: [{{kind: onnx-int8}}]\ndata: {{clips: '{clips}'}}\n"
    )
    return read(path)


def test_clips_in_a_bucket(store: Store, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, store.url("judging"))
    chosen = ranking(Remote(store.url("some")), 2, recipe, None)
    assert len(chosen.paths) == 2
    found = [float(soundfile.read(path)[0].mean()) for path in chosen.paths]
    assert set(np.round(found, 3)) < set(LEVELS)
    assert recipe.data is not None
    assert judging(recipe, recipe.data)[0] == 3


def test_clips_that_judge_are_refused_whatever_the_options_of_their_address(
    store: Store, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, store.url("judging"))
    other = Remote(store.url("judging") + "&allow_bucket_creation=false")
    with pytest.raises(DataError, match=r"s3://bucket/judging: .* is among the recipe's data"):
        ranking(other, 2, recipe, None)


def test_an_address_with_a_password_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(tmp_path, "judging")
    assert main(["tune", str(recipe.path), "--clips", "s3://key:secret@bucket/set"]) == 3
    told = capfd.readouterr().err
    assert "holds a key or password" in told
    assert "secret" not in told
