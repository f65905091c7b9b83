"""CTC models of every kind: our graphs compute what transformers does, and refuse what is foreign.

Their text and chunks are in `test_ctc_text`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint
from exporter.checkpoint.compatibility import check_fit
from exporter.errors import CheckpointError, RecipeError
from exporter.families import FAMILIES, family_name, model_types
from exporter.families.ctc.kinds import KINDS, first_frame
from exporter.recipe import Decoding
from exporter.recognition.load import load_original
from tests.support import tiny_ctc
from tests.support.tiny_ctc import make_ctc, tones

FAMILY = FAMILIES["ctc"]
each_kind = pytest.mark.parametrize("kind", tiny_ctc.KINDS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make each kind of checkpoint once; treat them as read-only."""
    folder = tmp_path_factory.mktemp("ctc")

    def checkpoint(kind: str) -> Path:
        return folder / kind if (folder / kind).exists() else make_ctc(folder / kind, kind)

    return checkpoint


@pytest.fixture
def changed(made: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a checkpoint with some values of one of its JSON files changed; None removes one."""

    def checkpoint(kind: str = "wav2vec2", file: str = "config.json", **values: Any) -> Path:
        folder = Path(shutil.copytree(made(kind), tmp_path / "changed"))
        held = {**json.loads((folder / file).read_text()), **values}
        kept = {name: value for name, value in held.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))
        return folder

    return checkpoint


def filled(checkpoint: Checkpoint) -> Any:
    """Its skeleton with its weights."""
    model = FAMILY.skeleton(checkpoint.config)
    check_fit(checkpoint, model, FAMILY.TIED)
    state = {name: checkpoint.read(name).float() for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    return model


def has_samples(kind: str) -> bool:
    return not kind.startswith(("wav2vec2-bert", "parakeet"))


def heard(folder: Path, seconds: float) -> Tensor:
    """The input of a model for a recording."""
    return FAMILY.forcing.window_features(FAMILY.processor(folder), [tones(seconds)])


def logits(model: Any, values: Tensor) -> Tensor:
    with torch.inference_mode():
        (graph,) = FAMILY.graphs(model, "dynamic")
        found: Tensor = graph.module(values)[0]
        return found


def test_every_kind_of_model_is_of_the_family() -> None:
    assert set(KINDS) <= set(model_types())
    assert {family_name({"model_type": kind}) for kind in KINDS} == {"ctc"}
    made_of = {f"{settings[0].removesuffix('CTC')}ForCTC" for settings in tiny_ctc.KINDS.values()}
    theirs = [kind for kind in KINDS.values() if kind.module is transformers]
    assert {kind.model for kind in theirs} == made_of


@each_kind
@pytest.mark.parametrize("seconds", [0.04, 0.7, 1.5])
def test_a_graph_computes_what_transformers_does(
    made: Callable[[str], Path], kind: str, seconds: float
) -> None:
    folder = made(kind)
    model, original = filled(open_checkpoint(str(folder))), FAMILY.open_original(folder)
    values = heard(folder, seconds)
    with torch.inference_mode():
        expected = original(values).logits
        own = model(values).logits
    torch.testing.assert_close(logits(model, values), expected, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(own, expected, atol=3e-5, rtol=1e-5)


@each_kind
def test_one_layer_is_traced_for_all(made: Callable[[str], Path], kind: str) -> None:
    model = FAMILY.skeleton(open_checkpoint(str(made(kind))).config)
    for cache in ("dynamic", "static"):
        (graph,) = FAMILY.graphs(model, cache)
        assert (graph.name, list(graph.inputs), list(graph.outputs)) == (
            *("model", [KINDS[model.config.model_type].input.name]),
            ["logits"],
        )
        assert graph.single_layer is not None
        assert graph.num_layers == model.config.num_hidden_layers


@each_kind
def test_a_graph_computes_in_bfloat16_from_tables_in_float16(
    made: Callable[[str], Path], kind: str
) -> None:
    model = FAMILY.skeleton(open_checkpoint(str(made(kind))).config, torch.bfloat16)
    for name, parameter in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if parameter.ndim > 1 and not isinstance(module, nn.Linear):
            setattr(module, leaf, nn.Parameter(parameter.half(), requires_grad=False))
    (graph,) = FAMILY.graphs(model, "static")
    (found,) = graph.module(*graph.inputs.values())
    assert (found.dtype, found.shape[::2]) == (torch.bfloat16, (2, 16))


@pytest.mark.parametrize("kind", [kind for kind in tiny_ctc.KINDS if has_samples(kind)])
@pytest.mark.parametrize("missing", [0, 1])
def test_the_least_samples_are_those_of_one_frame(
    made: Callable[[str], Path], kind: str, missing: int
) -> None:
    model = FAMILY.open_original(made(kind))
    values = torch.zeros(1, first_frame(model.config) - missing)
    if missing:
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(values)
    else:
        assert model(values).logits.shape[1] == 1


@pytest.mark.parametrize("kind", ["wavlm", "wavlm-layer-norm", "parakeet_ctc"])
def test_an_original_whose_modules_may_be_replaced_is_transformers_own(
    made: Callable[[str], Path], kind: str
) -> None:
    folder = made(kind)
    name, _ = tiny_ctc.KINDS[kind]
    theirs = getattr(transformers, f"{name.removesuffix('CTC')}ForCTC").from_pretrained(folder)
    values = heard(folder, 0.7).repeat(2, 1, *(1,) * (kind == "parakeet_ctc"))
    mask = torch.ones(values.shape[:2], dtype=torch.bool)
    mask[1, -values.shape[1] // 3 :] = False
    ours = FAMILY.open_original(folder)
    with torch.inference_mode():
        for options in ({}, {"attention_mask": mask}, {"output_attentions": True}):
            expected, found = theirs.eval()(values, **options), ours(values, **options)
            frames = found.logits.shape[1] // 2 if "attention_mask" in options else None
            torch.testing.assert_close(
                found.logits[:, :frames], expected.logits[:, :frames], atol=3e-5, rtol=1e-5
            )
            for pair in zip(found.attentions or (), expected.attentions or (), strict=True):
                torch.testing.assert_close(*pair)


@pytest.mark.parametrize("samples", [560, 720, 880, 5_000, 11_111])
def test_rows_that_a_mask_hides_are_left_out(made: Callable[[str], Path], samples: int) -> None:
    """An odd number of frames is padded by one, and transformers then hides a whole row."""
    folder = made("wav2vec2-bert")
    original, processor = FAMILY.open_original(folder), FAMILY.processor(folder)
    sound = tones(samples / 16_000)
    theirs = processor.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt")
    ours = FAMILY.forcing.window_features(processor, [sound])
    shown = int(theirs.attention_mask.sum())
    assert ours.shape == (1, shown, 160)
    with torch.inference_mode():
        expected = original(**theirs).logits[:, :shown]
        torch.testing.assert_close(original(ours).logits, expected, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_spellings_of_a_weight_norm_give_one_kernel(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    """And a checkpoint saved without its head's prefix, whose masking vector is left out."""
    newer = make_ctc(tmp_path / "newer", kind, dtype=dtype)
    state = load_file(newer / "model.safetensors")
    older = Path(shutil.copytree(newer, tmp_path / "older"))
    spelled = {"parametrizations.weight.original0": "weight_g"}
    spelled |= {"parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for name, tensor in state.items():
        for new, old in spelled.items():
            name = name.replace(new, old)
        if not name.endswith("masked_spec_embed"):
            renamed[name] = tensor
    assert len(renamed) == len(state) - 1
    save_file(renamed, older / "model.safetensors", {"format": "pt"})
    first, second = (filled(open_checkpoint(str(folder))) for folder in (newer, older))
    values = torch.from_numpy(tones(0.5))[None]
    assert torch.equal(logits(first, values), logits(second, values))
    originals = [FAMILY.open_original(folder)(values).logits for folder in (newer, older)]
    torch.testing.assert_close(*originals)
    if dtype == torch.float32:
        torch.testing.assert_close(logits(first, values), originals[0], atol=3e-5, rtol=1e-5)


def test_an_original_opened_from_its_tensors_is_the_same(made: Callable[[str], Path]) -> None:
    folder = made("hubert-batch-norm")
    values = torch.from_numpy(tones(0.5))[None]
    state = open_checkpoint(str(folder)).stored_state()
    given = FAMILY.open_original(folder, state)(values).logits
    torch.testing.assert_close(given, FAMILY.open_original(folder)(values).logits)


REFUSED = {
    "SEW": ({"model_type": "sew"}, "model_type 'sew' is not one of: data2vec-audio, hubert"),
    "SEW-D": ({"model_type": "sew-d"}, "model_type 'sew-d' is not one of"),
    "MCTCT": ({"model_type": "mctct"}, "model_type 'mctct' is not one of"),
    "LASR": ({"model_type": "lasr_ctc"}, "model_type 'lasr_ctc' is not one of"),
    "an adapter that halves frames": ({"add_adapter": True}, "add_adapter: Input should be False"),
    "stacks of different lengths": ({"conv_dim": [32]}, "have different lengths"),
    "a frame of an hour": ({"conv_stride": [4096, 4096, 8]}, "a frame of more than 65536 samples"),
    "heads that divide no width": ({"num_attention_heads": 3}, "no multiple of the 3 attention"),
    "an activation that is code": ({"hidden_act": "os.system"}, "hidden_act: Input should be"),
    "another blank": ({"pad_token_id": 4}, "the blank, is token 0, and config.json has pad_token"),
    "a classifier": (
        {"architectures": ["Wav2Vec2ForSequenceClassification"]},
        "this is a classifier, which writes no text",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_meant_is_refused_in_a_sentence(
    changed: Callable[..., Path], case: str
) -> None:
    values, told = REFUSED[case]
    folder = changed(**values)
    with pytest.raises(CheckpointError, match=told):
        FAMILY.check_processor(folder, open_checkpoint(str(folder)).config)


def test_an_encoder_without_a_head_is_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made("wav2vec2"), tmp_path / "pretrained"))
    state = load_file(folder / "model.safetensors")
    for name in ("lm_head.weight", "lm_head.bias"):
        del state[name]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    opened = open_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match=r"2 missing[^\n]*\nIt has no head: .*fine-tuned"):
        check_fit(opened, FAMILY.skeleton(opened.config), FAMILY.TIED)


def test_a_nemo_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.nemo").write_bytes(b"")
    with pytest.raises(CheckpointError, match="this is a model of NVIDIA NeMo, not a checkpoint"):
        open_checkpoint(str(tmp_path / "model.nemo"))


VOCABULARIES = {
    "a token that the head lacks": ({"l": 16}, "'l' as token 16, and the head has 16 outputs"),
    "two tokens of one number": ({"k": 5}, "the ids in vocab.json are not distinct"),
    "a token that is no number": ({"k": "fifteen"}, "the ids in vocab.json are not distinct"),
    "an output without a token": ({"k": None}, "none of its tokens is number 15"),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_another_models_vocabulary_is_refused(changed: Callable[..., Path], case: str) -> None:
    values, told = VOCABULARIES[case]
    folder = changed(file="vocab.json", **values)
    with pytest.raises(CheckpointError, match=told):
        FAMILY.check_processor(folder, json.loads((folder / "config.json").read_text()))


def test_special_tokens_beyond_the_head_are_usual(changed: Callable[..., Path]) -> None:
    """transformers adds them to a vocabulary that has them not."""
    marks = {"<s>": None, "</s>": None, "l": 1, "m": 2}
    folder = changed(file="vocab.json", **marks)
    (folder / "added_tokens.json").write_text(json.dumps({"<s>": 16, "</s>": 17}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    FAMILY.check_processor(folder, json.loads((folder / "config.json").read_text()))
    assert FAMILY.vocabulary(FAMILY.processor(folder)) == 14


def test_a_chunk_must_have_frames_of_its_own(made: Callable[[str], Path]) -> None:
    configs = {"config.json": json.loads((made("wav2vec2") / "config.json").read_text())}
    FAMILY.check_decoding(configs, Decoding(chunk_length_s=10, stride_length_s=4))
    with pytest.raises(RecipeError, match="chunk_length_s 10 is not longer than twice"):
        FAMILY.check_decoding(configs, Decoding(chunk_length_s=10, stride_length_s=5))
    with pytest.raises(RecipeError, match=r"no decoding option `num_beams`.*it has: batch_size"):
        FAMILY.check_decoding(configs, Decoding(num_beams=2))


def test_an_original_is_a_recogniser(made: Callable[[str], Path]) -> None:
    recogniser = load_original(str(made("hubert")), threads=1)
    (transcript,) = recogniser.transcribe([tones(1.0)], sampling_rate=16_000)
    assert transcript.text
    assert transcript.segments[0].end_s == 1.0
