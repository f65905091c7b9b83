"""The model card: every figure from the report, and snippets that run against the artifact."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from exporter.artifact import report
from exporter.artifact.manifest import Origin, Requirements
from exporter.hub import model_card
from exporter.hub.eligibility import check_publishable
from exporter.hub.push import plan_push
from tests.support import passing, snippets
from tests.support.cards import text_of
from tests.support.hub import Hub
from tests.support.reports import AGREEMENT
from tests.support.tiny_ctc import make_mms

LOCAL = Origin(
    source="my-whisper", revision=None, sha256="1" * 64, size_bytes=4000, parameters=1000
)
CLIPS = passing.RECIPE.replace(
    "{dataset: openslr/librispeech_asr, config: clean, split: test, max_clips: 200}",
    "{clips: /data/of/mine}",
).replace("openai/whisper-small", "../models/my-whisper")


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
    assert "| seconds per clip, median | 300 ms | 80 ms | x 0.27 [0.26, 0.28] |" in text
    assert "| size | 16 MB | 5.37 MB | 34 % |" in text
    assert "Measured on AMD EPYC, 2 cores, 2 threads for both" in text
    assert "- word errors: within the gate" in text
    assert "next tokens" not in text
    assert judged.artifact.digest in text
    assert judged.data.sha256 in text
    assert f"--checkpoint openai/whisper-small@{'c' * 40}" in text


def test_it_tells_how_the_tokens_agree(tmp_path: Path) -> None:
    folder = passing.make(tmp_path / "onnx-int8")
    passing.judged(folder, agreement=AGREEMENT)
    row = "| next tokens, against the original's | | KL 9.5e-5 nats, top-1 100.0 % | |\n"
    assert row in text_of(folder)


def test_its_picture_stands_alone(tmp_path: Path) -> None:
    written = model_card.render(
        check_publishable(passing.make(tmp_path / "onnx-int8")), "org/speech"
    )
    picture = written[model_card.PICTURE].decode()
    assert picture.startswith('<svg viewBox="0 0 480 128"')
    assert 'xmlns="http://www.w3.org/2000/svg"' in picture
    assert "href" not in picture
    assert f"]({model_card.PICTURE})" in written[model_card.CARD].decode()


def test_native_code_is_told(tmp_path: Path) -> None:
    folder = passing.make(
        tmp_path / "aoti",
        kind="aoti",
        needs=Requirements(cpu_features=("avx512_vnni",)),
        more={"encoder.pt2": b"code"},
    )
    text = text_of(folder)
    assert "\nIt needs a CPU with AVX-512 VNNI; " in text
    assert "\nIt contains native code. Pass `trust=True`" in text
    assert 'print(exporter.load("org/speech", trust=True).transcribe("speech.flac"))' in text
    assert "trust" not in text_of(passing.make(tmp_path / "onnx-int8"))


KINDS = [
    pytest.param("onnx-int8", marks=pytest.mark.optimum),  # which its card opens it with
    pytest.param("torch-int8", marks=pytest.mark.sweep),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_its_snippets_run(
    loopback: Hub, tiny_whisper: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets.run(loopback, tiny_whisper, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_ctc_models_snippets_run(
    loopback: Hub, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline is told no language, of which its model is the only one."""
    monkeypatch.chdir(tmp_path)
    snippets.run(loopback, make_mms(tmp_path / "mms"), kind, "{language: deu}")
    card = loopback.repos["org/speech"].files["README.md"].data.decode()
    assert "generate_kwargs" not in card
    assert ("ORTModelForCTC" in card) == (kind == "onnx-int8")


def test_licence_base_model_and_installation_are_told(tmp_path: Path) -> None:
    needs = Requirements(packages=("onnxruntime",))
    text = text_of(passing.make(tmp_path / "onnx-int8", needs=needs))
    assert "\nLicence: apache-2.0.\n" in text
    assert "[openai/whisper-small](https://huggingface.co/openai/whisper-small)." in text
    assert "pip install 'asr-exporter[hub,onnxruntime]'`" in text
    assert "\npip install 'asr-exporter[validate,onnxruntime]'\n" in text
    assert "pip install 'optimum-onnx[onnxruntime]' soundfile`" in text


@pytest.mark.parametrize(
    ("packages", "extras"), [(("torch",), "build"), ((), "hub"), (("others",), "hub")]
)
def test_the_extras_are_those_of_what_it_needs(
    tmp_path: Path, packages: tuple[str, ...], extras: str
) -> None:
    text = text_of(passing.make(tmp_path / "any", needs=Requirements(packages=packages)))
    assert f"(`pip install 'asr-exporter[{extras}]'`;" in text
    assert "\npip install 'asr-exporter[validate]'\n" in text


def test_a_model_of_no_class_of_transformers_is_for_exporter(tmp_path: Path) -> None:
    config = b'{"model_type": "speechbrain-wav2vec2-ctc"}'
    text = text_of(passing.make(tmp_path / "onnx-int8", more={"config.json": config}))
    assert "optimum" not in text
    assert 'print(exporter.load("org/speech").transcribe("speech.flac"))' in text
    assert ModelCard(text).data.library_name == "exporter"


def test_what_is_missing_is_told_in_the_card_and_at_push(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = CLIPS.replace(", license: apache-2.0", "").replace("/data/of/mine", "mine")
    folder = passing.make(tmp_path / "onnx-int8", recipe=bare, checkpoint=LOCAL)
    text = text_of(folder)
    assert "\nLicence: not stated here." in text
    assert "\nBase model: not stated here;" in text
    plan_push(folder, None, None)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "its model card names no licence (hub.license)",
        "its model card names no base model (hub.base_model)",
    ]


def test_the_base_model_of_a_folder_is_the_recipes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = CLIPS.replace("license:", "base_model: openai/whisper-small, license:")
    folder = passing.make(
        tmp_path / "a", recipe=named.replace("/data/of/mine", "mine"), checkpoint=LOCAL
    )
    assert ModelCard(text_of(folder)).data.base_model == "openai/whisper-small"
    plan_push(folder, None, None)
    assert not caplog.records


HOSTILE = (
    "x\n---\nlicense: mit\n# Passed\n<script>alert(1)</script> [l](http://e.org) |\x1b[2J\u202e"
)


def test_text_of_others_becomes_neither_markup_nor_front_matter(tmp_path: Path) -> None:
    folder = passing.make(
        tmp_path / "onnx-int8",
        machine={"cpu": HOSTILE, "cores": 2},
        versions={"exporter": HOSTILE, HOSTILE: "1"},
    )
    check = report.Check(name=HOSTILE, passed=True, sentence=HOSTILE)
    passing.judged(folder, sentence=HOSTILE, checks=(check,))
    text = text_of(folder)
    clean = text_of(passing.make(tmp_path / "clean"))
    assert ModelCard(text).data.to_dict()["license"] == "apache-2.0"
    assert len(text.splitlines()) == len(clean.splitlines())
    assert text.count("---\n") == clean.count("---\n") == 2
    assert "<script" not in text.replace("\\<", "")
    assert "](http://e.org)" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
