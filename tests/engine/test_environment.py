"""What decides transcripts: the same on two equal machines, another one after any change."""

import json
import shutil
from pathlib import Path

import pytest

import exporter
from exporter.engine import environment


def test_is_plain_data_and_told_in_words() -> None:
    found = environment.describe()
    assert json.loads(json.dumps(found)) == found
    assert f"numpy {found['versions']['numpy']}" in environment.in_words(found)
    assert found["cpu"][0] in environment.in_words(found)


@pytest.mark.parametrize("file", ["errors.py", "engine/environment.py", "validate/pipeline.py"])
def test_every_source_counts(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "exporter"
    shutil.copytree(Path(exporter.__file__).parent, place)
    monkeypatch.setattr(environment, "_ROOT", place)
    before = environment._sources_sha256()
    assert before == environment.describe()["code"]
    with (place / file).open("a") as stream:
        stream.write("# changed\n")
    assert environment._sources_sha256() != before
