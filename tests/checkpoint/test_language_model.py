"""A language model beside a CTC checkpoint is carried into its artifacts, as it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.artifact import store
from exporter.artifact.report import Check
from exporter.build.pipeline import build
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.cli import main
from exporter.errors import CheckpointError
from exporter.recipe import read
from exporter.recognition.load import load, load_original
from exporter.system.progress import silent
from exporter.validate.evidence import origin
from tests.support import exact
from tests.support.hub_models import with_language_model
from tests.support.tiny_ctc import make_clips, make_ctc, tones

FILES = {f"language_model/{name}" for name in ("attrs.json", "unigrams.txt", "3gram.bin")}
RECIPE = """\
name: letters
checkpoint: checkpoint
targets: [{kind: onnx-int8, layout: transformers.js}, {kind: torch-int8}]
data: {clips: clips}
gate: {max_wer_increase: 1.0, max_latency_ratio: 1000, max_reference_wer: 1000, min_clips: 2}
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ctc(tmp_path_factory.mktemp("plain") / "checkpoint")


@pytest.fixture
def spoken(plain: Path, tmp_path: Path) -> Path:
    return with_language_model(Path(shutil.copytree(plain, tmp_path / "checkpoint")))


def test_it_is_part_of_the_checkpoint(plain: Path, spoken: Path) -> None:
    assert open_checkpoint(str(plain)).carried == {}
    opened = open_checkpoint(str(spoken))
    digest = opened.sha256
    assert opened.carried.keys() == FILES
    assert opened.size_bytes == open_checkpoint(str(plain)).size_bytes
    (spoken / "language_model/unigrams.txt").write_text("b\n")
    assert open_checkpoint(str(spoken)).sha256 != digest


def out_of_it(folder: Path) -> None:
    (folder / "language_model").rename(folder.parent / "elsewhere")
    (folder / "language_model").symlink_to(folder.parent / "elsewhere")


def a_file_out_of_it(folder: Path) -> None:
    path = folder / "language_model/3gram.bin"
    path.rename(folder.parent / "secret")
    path.symlink_to(folder.parent / "secret")


def a_folder(folder: Path) -> None:
    (folder / "language_model/5gram.arpa").mkdir()


def to_nothing(folder: Path) -> None:
    (folder / "language_model/5gram.arpa").symlink_to("missing")


def no_json(folder: Path) -> None:
    (folder / "language_model/attrs.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (out_of_it, "3gram.bin is a link that leads out"),
        (a_file_out_of_it, "3gram.bin is a link that leads out"),
        (a_folder, "5gram.arpa is not a regular file"),
        (to_nothing, "5gram.arpa is a link to a missing file"),
        (no_json, "attrs.json"),
    ],
)
def test_what_is_no_file_of_it_is_refused(
    change: Callable[[Path], None], reason: str, spoken: Path
) -> None:
    change(spoken)
    with pytest.raises(CheckpointError, match=reason):
        open_checkpoint(str(spoken))


def checked(folder: Path, checkpoint: Path) -> Check:
    manifest = store.verify(folder)
    opened = open_checkpoint(str(checkpoint))
    return origin.checks(folder, manifest, read(folder / "recipe.yaml"), opened)[0]


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
def test_every_artifact_carries_it_sealed(
    plain: Path, spoken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And decodes greedily, with no word about it; the doctor knows what it is."""
    make_clips(tmp_path / "clips")
    (tmp_path / "letters.yaml").write_text(RECIPE)
    wanted = read(tmp_path / "letters.yaml", exact.OVERRIDES)
    made = build(wanted, output=tmp_path / "artifacts", progress=silent)
    expected = load_original(str(plain)).transcribe([tones(1.5)], sampling_rate=16_000)
    assert load_original(str(spoken)).transcribe([tones(1.5)], sampling_rate=16_000) == expected
    for each in made:
        sealed = {file.path: file.size_bytes for file in store.verify(each.path).files}
        assert {name for name in sealed if name.startswith("language_model/")} == FILES
        for name in FILES:
            assert (each.path / name).read_bytes() == (spoken / name).read_bytes()
        assert load(each.path).transcribe([tones(1.5)], sampling_rate=16_000)[0].text
        assert checked(each.path, spoken).passed
        assert main(["doctor", str(each.path), "--json"]) == 0
        assert "pickle" not in capfd.readouterr().out
    folder = made[-1].path
    (spoken / "language_model/3gram.bin").write_bytes(b"another")
    assert "language_model/3gram.bin is other bytes" in checked(folder, spoken).sentence
    (spoken / "language_model/3gram.bin").rename(spoken / "language_model/3gram.arpa")
    assert "3gram.arpa is missing, the build copies it" in checked(folder, spoken).sentence
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert settings["processor_class"] == "Wav2Vec2ProcessorWithLM"
