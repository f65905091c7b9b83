"""The model card: every figure from the report, and snippets that run against the artifact."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard

from exporter import card, push, report
from exporter.artifact import Needs, Origin
from exporter.proof import proven
from tests import passing
from tests.hub_upload import Hub

LOCAL = Origin(
    source="my-whisper", revision=None, sha256="1" * 64, size_bytes=4000, parameters=1000
)
CLIPS = passing.RECIPE.replace(
    "{dataset: openslr/librispeech_asr, config: clean, split: test, max_clips: 200}",
    "{clips: /data/of/mine}",
).replace("openai/whisper-small", "../models/my-whisper")


def text_of(folder: Path, repo: str = "org/speech") -> str:
    return card.written(proven(folder), repo)[card.CARD].decode()


def test_its_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    data = ModelCard(text_of(passing.make(tmp_path / "onnx-int8"))).data
    assert data.base_model == "openai/whisper-small"
    assert data.base_model_relation == "quantized"
    assert (data.license, data.language) == ("apache-2.0", "en")
    assert (data.library_name, data.pipeline_tag) == ("optimum", "automatic-speech-recognition")
    assert {"onnx", "onnx-int8", "whisper"} <= set(data.tags or ())
    wer, cer = data.eval_results or ()
    assert (wer.metric_type, wer.metric_value) == ("wer", 4.0)
    assert (cer.metric_type, cer.metric_value) == ("cer", 2.0)
    assert (wer.dataset_type, wer.dataset_config, wer.dataset_split) == (
        "openslr/librispeech_asr",
        "clean",
        "test",
    )


def test_folders_of_this_machine_are_named_without_their_paths(tmp_path: Path) -> None:
    folder = passing.make(tmp_path / "onnx-int8", recipe=CLIPS, checkpoint=LOCAL)
    text = text_of(folder)
    data = ModelCard(text).data
    assert data.base_model is None
    (wer, _) = data.eval_results or ()
    assert (wer.dataset_type, wer.dataset_name) == ("clips", "mine")
    assert wer.dataset_revision == report.read(folder).data.sha256
    assert "`my-whisper` (sha256 `1111" in text
    assert "--checkpoint FOLDER" in text
    assert "/data/of" not in text
    assert "../models" not in text


def test_every_figure_is_the_reports(tmp_path: Path) -> None:
    folder = passing.make(tmp_path / "onnx-int8")
    text, judged = text_of(folder), report.read(folder)
    assert judged.sentence in text
    assert "| word error rate | 4.57 % | 4.00 % | -0.57 [-1.51, +0.18] points |" in text
    assert "| seconds a clip, median | 300 ms | 80 ms | x 0.27 [0.26, 0.28] |" in text
    assert "| size | 16 MB | 5.37 MB | 34 % |" in text
    assert "Measured on AMD EPYC, 2 cores, 2 threads on both sides" in text
    assert "- word errors: within the gate" in text
    assert judged.artifact.digest in text
    assert judged.data.sha256 in text
    assert f"--checkpoint openai/whisper-small@{'c' * 40}" in text


def test_its_picture_stands_alone(tmp_path: Path) -> None:
    written = card.written(proven(passing.make(tmp_path / "onnx-int8")), "org/speech")
    picture = written[card.PICTURE].decode()
    assert picture.startswith('<svg viewBox="0 0 480 128"')
    assert 'xmlns="http://www.w3.org/2000/svg"' in picture
    assert "href" not in picture
    assert f"]({card.PICTURE})" in written[card.CARD].decode()


def test_native_code_is_told(tmp_path: Path) -> None:
    folder = passing.make(
        tmp_path / "aoti",
        kind="aoti",
        needs=Needs(cpu_features=("avx512_vnni",)),
        more={"encoder.pt2": b"code"},
    )
    text = text_of(folder)
    assert "\nIt needs a CPU with avx512_vnni.\n" in text
    assert "\nIt holds native code: `trust=True` says" in text
    assert 'print(load("org/speech", trust=True).transcribe("speech.flac")[0].text)' in text
    assert "trust" not in text_of(passing.make(tmp_path / "onnx-int8"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx-int8", "torch-int8"])
def test_its_snippets_run(
    loopback: Hub, tiny_whisper: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(
        f"name: speech\ncheckpoint: {tiny_whisper}\ntargets: [{{kind: {kind}}}]\n"
        "decoding: {language: en, task: transcribe}\nhub: {repo: org/speech}\n"
    )
    settings = {"HF_ENDPOINT": loopback.endpoint, "HF_HOME": str(tmp_path / "home")}
    environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"}

    def python(*line: str) -> str:
        command = [sys.executable, *line]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert loopback.token not in ran.stdout + ran.stderr
        return ran.stdout

    python("-m", "exporter", "build", "recipe.yaml")
    folder = tmp_path / "artifacts" / "speech" / kind
    passing.judged(folder)
    (one,) = push.push(push.prepared(folder, None, None), push.Way(), lambda *_: None)
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000)
    soundfile.write("speech.flac", noise, 16_000)
    said = python("-m", "exporter", "transcribe", str(folder), "speech.flac", "--json")
    (heard,) = json.loads(said)["transcripts"]
    text = loopback.repos["org/speech"].files["README.md"].data.decode()
    snippets = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    assert len(snippets) == 2
    for snippet in snippets:
        assert python("-c", snippet).strip() == heard["text"].strip()
    again = python("-m", "exporter", "transcribe", f"org/speech@{one.tag}", "speech.flac", "--json")
    assert json.loads(again)["transcripts"] == [heard]
    pulled = folder.parents[1] / "org" / "speech"
    python("-m", "exporter", "pull", "org/speech")
    assert {path.name for path in pulled.iterdir()} == {
        path.name for path in folder.iterdir() if path.name != "places.json"
    }
