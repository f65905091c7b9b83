"""A family of another kind takes one file and one line, and then every command knows it.

Raw samples go in and letters come out of one graph; there is no generation config, the tokenizer
has no merges, and a convolution's weight is stored in two parts.
"""

import json
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest

from tests.support.second_family import changes, copy_product, run
from tests.support.tiny_ctc import make_clips, make_ctc

RECIPE = """\
name: letters
checkpoint: {checkpoint}
targets: [{{kind: onnx-int8}}, {{kind: torch-int8}}, {{kind: aoti}}]
data: {{clips: {clips}}}
gate: {{max_wer_increase: 1.0, max_latency_ratio: 1000, max_reference_wer: 1000, min_clips: 2}}
decoding:
  {decoding}
"""
KINDS = ["onnx-int8", "torch-int8", "aoti"]


@pytest.fixture(scope="module")
def product(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_product(repository, tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and recordings."""
    folder = tmp_path_factory.mktemp("letters")
    unmasked = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    config = make_ctc(folder / "checkpoint", **unmasked) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "letters"}))
    make_clips(folder / "clips")
    return folder


def write_recipe(place: Path, name: str, decoding: str = "batch_size: 2") -> Path:
    path = place / f"{name}.yaml"
    path.write_text(RECIPE.format(checkpoint="checkpoint", clips="clips", decoding=decoding))
    return path


@pytest.fixture(scope="module")
def built(product: Path, place: Path) -> dict[str, dict[str, Any]]:
    """Its artifacts by kind."""
    made = run(product, "build", write_recipe(place, "good"), "--output", place / "artifacts")
    assert made["exit_code"] == 0, made["stderr"]
    return {each["manifest"]["kind"]: each for each in made["artifacts"]}


def test_the_product_has_one_file_more_and_one_line(repository: Path, product: Path) -> None:
    assert changes(repository, product) == {
        "exporter/families/letters.py",
        "exporter/families/__init__.py",
    }


def test_a_checkpoint_of_it_is_known(product: Path, place: Path) -> None:
    facts = run(product, "inspect", place / "checkpoint")
    assert facts["exit_code"] == 0, facts["stderr"]
    assert facts["family"] == "letters"
    assert {row["kind"] for row in facts["plan"]} == {*KINDS, "onnx-fp16"}


def test_an_option_that_it_lacks_is_refused_at_its_line(product: Path, place: Path) -> None:
    refused = run(product, "build", write_recipe(place, "bad", "num_beams: 5"), "--dry-run")
    assert refused["exit_code"] == 2
    assert "bad.yaml:7:14: decoding.num_beams: this kind of model has no" in refused["stderr"]
    assert "(it has: batch_size)" in refused["stderr"]


@pytest.mark.slow
def test_it_is_built_to_all_targets(built: dict[str, dict[str, Any]]) -> None:
    assert built.keys() == set(KINDS)
    for each in built.values():
        names = {file["path"] for file in each["manifest"]["files"]}
        assert {"config.json", "preprocessor_config.json", "vocab.json"} <= names
        assert each["manifest"]["family"] == "letters"


@pytest.mark.slow
@pytest.mark.sweep  # the family of CTC models is validated and timed in every run
def test_it_is_validated(product: Path, place: Path, built: dict[str, dict[str, Any]]) -> None:
    """Random weights write nonsense, but artifacts write nearly the original's nonsense."""
    judged = run(product, "validate", place / "artifacts" / "letters")
    assert judged["exit_code"] == 0, judged["stderr"]
    reports = [row["report"] for row in judged["reports"]]
    assert {report["artifact"]["kind"] for report in reports} == set(KINDS)
    assert all(report["verdict"] == "passed" for report in reports)
    for row in judged["reports"]:
        lines = (Path(row["path"]) / "predictions.jsonl").read_text().splitlines()
        for clip in map(json.loads, lines):
            pair = SequenceMatcher(None, clip["pred_text"], clip["pred_text_reference"])
            assert pair.ratio() > 0.8


@pytest.mark.slow
@pytest.mark.sweep
def test_it_is_timed(product: Path, place: Path, built: dict[str, dict[str, Any]]) -> None:
    """A window of it is the same work whatever it hears: no tokens are forced, none are timed."""
    timed = run(product, "bench", place / "artifacts" / "letters", "--original", "--runs=2")
    assert timed["exit_code"] == 0, timed["stderr"]
    rows = {Path(row["name"]).name: row for row in timed["rows"]}
    assert len(rows) == len(KINDS) + 1
    for kind in ("onnx-int8", "aoti"):
        assert rows[kind]["error"] is None
        assert rows[kind]["encoder_window_s"] > 0
        assert rows[kind]["decoder_token_s"] is None
    assert (
        rows["torch-int8"]["encoder_window_s"] is None
    )  # it runs as torch modules, without graphs


@pytest.mark.slow
def test_its_text_is_given(product: Path, place: Path, built: dict[str, dict[str, Any]]) -> None:
    clips = sorted((place / "clips").glob("*.wav"))
    told = run(product, "transcribe", built["torch-int8"]["path"], *clips)
    assert told["exit_code"] == 0, told["stderr"]
    assert all(row["text"] for row in told["transcripts"])
    assert told["transcripts"][0]["segments"][0]["end_s"] == pytest.approx(0.6)
