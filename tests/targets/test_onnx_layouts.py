"""onnx-int8 laid out for transformers.js: its names, its config entry, and the same words."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from huggingface_hub import ModelCard
from tokenizers import Tokenizer

from exporter import recipe
from exporter.build.pipeline import BuiltArtifact, build
from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import RecipeError
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.float import Scheme as Float
from exporter.recipe import Decoding
from exporter.recognition.load import load, load_original
from exporter.system.progress import silent
from exporter.targets import TARGETS
from tests.support import exact, passing
from tests.support.cards import text_of
from tests.support.in_process import steps_in_process
from tests.support.plans import FLOAT, INT8, plan_for, whisper_plan
from tests.support.tiny_ctc import make_ctc, tones

WHISPER, TARGET = FAMILIES["whisper"], TARGETS["onnx-int8"]
ENCODER, DECODER = "encoder_model", "decoder_model_merged"
RECIPE = """\
name: tiny
checkpoint: {checkpoint}
targets: [{{kind: onnx-int8, layout: transformers.js}}]
"""


def foretold(folder: Path, plan: QuantizationPlan | None = None, **options: Any) -> dict[str, int]:
    checkpoint = open_checkpoint(str(folder))
    chosen, model = TARGET.Options.model_validate(options), WHISPER.skeleton(checkpoint.config)
    return TARGET.layout(chosen, plan or plan_for(model), model, checkpoint, WHISPER)


def read_as_transformers_js(folder: Path) -> set[str]:
    """The graphs, and the files of weights, that its `session.js` and `model-loader.js` ask for."""
    endings = {"fp32": "", "q8": "_quantized"}
    told = json.loads((folder / "config.json").read_text())["transformers.js_config"]
    files = set()
    for graph in (ENCODER, DECODER):
        dtype = told["dtype"] if isinstance(told["dtype"], str) else told["dtype"][graph]
        name = f"{graph}{endings[dtype]}.onnx"
        pieces = told["use_external_data_format"].get(name, 0)
        files |= {name, *(f"{name}_data{f'_{i}' if i else ''}" for i in range(pieces))}
    return files


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, english_whisper: Path) -> BuiltArtifact:
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "recipe.yaml").write_text(RECIPE.format(checkpoint=english_whisper))
    wanted = recipe.read(folder / "recipe.yaml")
    with steps_in_process():
        (one,) = build(wanted, output=folder / "artifacts", progress=silent)
    return one


@pytest.mark.slow
def test_transformers_js_finds_its_files(built: BuiltArtifact) -> None:
    graphs = built.path / "onnx"
    wanted = read_as_transformers_js(built.path)
    assert len(wanted) == 4
    assert wanted <= {path.name for path in graphs.iterdir()}
    for name in sorted(path.name for path in graphs.glob("*.onnx")):
        model = onnx.load(graphs / name, load_external_data=False)
        places = {e.value for i in model.graph.initializer for e in i.external_data[:1]}
        lent = name in ("step_quantized.onnx", "cross_cache_quantized.onnx")
        assert places == {f"{DECODER}_quantized.onnx_data" if lent else f"{name}_data"}


@pytest.mark.slow
def test_the_config_is_the_checkpoints_with_one_entry_more(
    built: BuiltArtifact, english_whisper: Path
) -> None:
    told = json.loads((built.path / "config.json").read_text())
    assert told.pop("transformers.js_config")["dtype"] == "q8"
    assert told == json.loads((english_whisper / "config.json").read_text())
    sizes = {file.path: file.size_bytes for file in built.manifest.files}
    assert built.prediction.files.keys() == sizes.keys()
    assert built.prediction.files["config.json"] == sizes["config.json"]


@pytest.mark.slow
@pytest.mark.optimum
def test_our_runtime_and_optimum_hear_what_the_original_does(
    built: BuiltArtifact, english_whisper: Path
) -> None:
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

    noise = np.random.default_rng(0)
    sounds = [noise.normal(0, 0.1, length).astype(np.float32) for length in (9000, 32000, 50000)]
    original = load_original(str(english_whisper), threads=1)
    expected = [list(t.tokens) for t in original.decode(sounds)]
    ours = load(built.path, threads=1)
    assert [list(t.tokens) for t in ours.decode(sounds)] == expected
    together = ours.decode(sounds, Decoding(batch_size=3))
    assert [list(t.tokens) for t in together] == expected
    assert all(t.text for t in ours.decode(sounds, Decoding(num_beams=3)))
    features = ours.processor(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    theirs = ORTModelForSpeechSeq2Seq.from_pretrained(built.path).generate(features)
    special = set(ours.processor.tokenizer.all_special_ids)
    assert [[t for t in row if t not in special] for row in theirs.tolist()] == expected


def test_precisions_are_in_the_names(tiny_whisper: Path) -> None:
    def graphs(plan: QuantizationPlan | None = None, **options: Any) -> set[str]:
        return {path for path in foretold(tiny_whisper, plan, **options) if path.endswith(".onnx")}

    names = (ENCODER, DECODER, "cross_cache", "step")
    assert graphs() == {f"{name}.onnx" for name in names}
    javascript = {"layout": "transformers.js"}
    assert graphs(**javascript) == {f"onnx/{name}_quantized.onnx" for name in names}
    narrow = whisper_plan(tiny_whisper, Float(dtype="bfloat16"))
    assert graphs(narrow, **javascript) == {f"onnx/{name}.onnx" for name in names}
    decoder = {f"onnx/{name}_quantized.onnx" for name in names[1:]}
    mixed = whisper_plan(tiny_whisper, patterns={"*encoder.*": FLOAT})
    assert graphs(mixed, **javascript) == decoder | {f"onnx/{ENCODER}.onnx"}
    # One int8 module anywhere makes a graph that transformers.js calls quantized.
    one = whisper_plan(tiny_whisper, FLOAT, {"model.encoder.layers.1.fc2": INT8})
    assert graphs(one, **javascript) == {
        f"onnx/{ENCODER}_quantized.onnx",
        *(f"onnx/{name}.onnx" for name in names[1:]),
    }


def test_only_where_precisions_differ_each_graph_has_its_own(tmp_path: Path) -> None:
    from exporter.targets.onnx.layouts import config_text, named

    def told(encoder: bool, decoder: bool) -> Any:
        graphs = {ENCODER: encoder, DECODER: decoder}
        files = [named("transformers.js", name, int8=int8) for name, int8 in graphs.items()]
        text = config_text({"d_model": 4}, files)
        (tmp_path / "config.json").write_text(text)
        assert len(read_as_transformers_js(tmp_path)) == 4
        return json.loads(text)["transformers.js_config"]["dtype"]

    assert told(True, True) == "q8"
    assert told(False, False) == "fp32"
    assert told(False, True) == {ENCODER: "fp32", DECODER: "q8"}


def test_a_checkpoint_without_its_one_tokenizer_file(tiny_whisper: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_whisper, tmp_path / "checkpoint"))
    (folder / "tokenizer.json").unlink()
    checkpoint = open_checkpoint(str(folder))
    model = WHISPER.skeleton(checkpoint.config)
    plan = plan_for(model)
    TARGET.check(TARGET.Options(), plan, model, checkpoint, WHISPER)
    options = TARGET.Options.model_validate({"layout": "transformers.js"})
    with pytest.raises(RecipeError, match=r"layout: transformers\.js reads tokenizer\.json"):
        TARGET.check(options, plan, model, checkpoint, WHISPER)


@pytest.mark.slow
@pytest.mark.optimum
def test_a_ctc_model_gets_the_tokenizer_that_checkpoints_lack(tmp_path: Path) -> None:
    """A build, `validate` and the estimate know the same files, and optimum opens them too."""
    from optimum.onnxruntime import ORTModelForCTC

    folder = make_ctc(tmp_path / "ctc")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["clean_up_tokenization_spaces"]  # which transformers.js would then do
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(checkpoint="ctc"))
    wanted = recipe.read(tmp_path / "recipe.yaml", exact.OVERRIDES)
    with steps_in_process():
        (one,) = build(wanted, output=tmp_path / "artifacts", progress=silent)
    files = {file.path: file.size_bytes for file in one.manifest.files}
    assert {"onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data"} <= files.keys()
    checkpoint, family = open_checkpoint(str(folder)), FAMILIES["ctc"]
    options = TARGET.Options.model_validate(one.manifest.options)
    model = family.skeleton(checkpoint.config)
    told = TARGET.records(options, plan_for(model), model, checkpoint, family, {}).files
    assert one.prediction.files.keys() == files.keys()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert told[name] == (one.path / name).read_bytes()
        assert one.prediction.files[name] == files[name]
    assert json.loads(told["tokenizer_config.json"])["clean_up_tokenization_spaces"] is False
    recogniser, sound = load(one.path, threads=1), tones(1.5)
    (heard,) = recogniser.decode([sound])
    values = family.forcing.own_features(recogniser.model, recogniser.processor, [sound])
    logits = ORTModelForCTC.from_pretrained(one.path)(input_values=values).logits
    best = logits[0].argmax(-1).tolist()
    tokenizer = Tokenizer.from_file(str(one.path / "tokenizer.json"))
    assert tokenizer.decode(best, skip_special_tokens=True) == heard.text


def test_a_ctc_model_that_transformers_js_lacks(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_ctc(tmp_path / "ctc", "data2vec-audio")))
    model = FAMILIES["ctc"].skeleton(checkpoint.config)
    options = TARGET.Options.model_validate({"layout": "transformers.js"})
    with pytest.raises(RecipeError, match=r"no pipeline for data2vec-audio models: .* wav2vec2"):
        TARGET.check(options, plan_for(model), model, checkpoint, FAMILIES["ctc"])


def test_its_card_speaks_javascript(tmp_path: Path) -> None:
    graphs = {f"onnx/{ENCODER}_quantized.onnx": b"x", f"onnx/{DECODER}_quantized.onnx": b"x"}
    plain = passing.RECIPE.replace("{language: en}", "{language: en, num_beams: 5}")
    text = text_of(passing.make(tmp_path / "onnx-int8", recipe=plain, graphs=graphs))
    data = ModelCard(text).data
    assert data.library_name == "transformers.js"
    assert "onnx" in (data.tags or ())
    assert 'await pipeline("automatic-speech-recognition", "org/speech");' in text
    assert 'await recogniser("speech.wav", {"language": "en"});' in text
    assert "greedily, and the figures above are with 5 beams." in text
    assert 'ORTModelForSpeechSeq2Seq.from_pretrained("org/speech")' in text
    assert "transformers.js" not in text_of(passing.make(tmp_path / "other" / "onnx-int8"))
