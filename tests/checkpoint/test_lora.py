"""A LoRA adapter over its base gives the weights that the formula gives, or says what it is not."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from exporter.checkpoint.checkpoint import Checkpoint, open_checkpoint, warn_of_adapter
from exporter.checkpoint.compatibility import check_fit
from exporter.checkpoint.files import weight_names
from exporter.checkpoint.lora import Merged
from exporter.errors import CheckpointError, HubError
from exporter.families import FAMILIES
from exporter.quantization.int8 import quantize
from exporter.recognition.load import load, load_original
from tests.support.tiny_adapter import PREFIX, QUERY, VALUE, WIDE, change, write_adapter

NORM = "model.encoder.layer_norm"


@pytest.fixture
def base(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "base"))


def by_formula(base: Path, adapter: Path, scales: dict[str, float]) -> dict[str, Tensor]:
    """Every weight of the base, with the updates of `scales`' modules added in float32."""
    weights = load_file(base / "model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    for module, scale in scales.items():
        stored = weights[f"{module}.weight"]
        up, down = (factors[f"{PREFIX}{module}.lora_{side}.weight"].float() for side in "BA")
        weights[f"{module}.weight"] = (stored.float() + scale * (up @ down)).to(stored.dtype)
    return weights


def require_equal(opened: Checkpoint, expected: dict[str, Tensor]) -> None:
    assert opened.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert opened.read(name).dtype == tensor.dtype
        torch.testing.assert_close(opened.read(name), tensor, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_merged_weight_is_the_base_and_the_scaled_product(base: Path, dtype: torch.dtype) -> None:
    adapter = write_adapter(base, dtype=dtype)
    opened = open_checkpoint("adapter", base.parent)
    expected = by_formula(base, adapter, dict.fromkeys((QUERY, VALUE, WIDE), 16 / 4))
    require_equal(opened, expected)
    family = FAMILIES["whisper"]
    check_fit(opened, family.skeleton(opened.config), family.TIED)
    plain = open_checkpoint(str(base))
    changed = [n for n in plain.tensors if not torch.equal(opened.read(n), plain.read(n))]
    assert sorted(changed) == sorted(f"{module}.weight" for module in (QUERY, VALUE, WIDE))
    assert opened.parameters == plain.parameters


def test_a_float16_base_stays_float16(tmp_path: Path, english_whisper: Path) -> None:
    base = Path(shutil.copytree(english_whisper, tmp_path / "base"))
    modules = (QUERY, WIDE)
    adapter = write_adapter(base, modules)
    opened = open_checkpoint(str(adapter))
    require_equal(opened, by_formula(base, adapter, dict.fromkeys(modules, 16 / 4)))
    assert opened.read(f"{QUERY}.weight").dtype == torch.float16


def test_blocks_join_to_the_merged_weight(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.formats.tensor_io.BLOCK_ELEMENTS", 7 * 64)
    write_adapter(base)
    opened = open_checkpoint("adapter", base.parent)
    name = f"{WIDE}.weight"
    blocks = [block.clone() for block in opened.blocks(name)]
    assert [len(block) for block in blocks[:-1]] == [7] * (len(blocks) - 1)
    assert torch.equal(torch.cat(blocks), opened.read(name))
    shape = opened.tensors[name].shape
    codes, scales = quantize(lambda: opened.blocks(name), shape)
    again = quantize(lambda: [opened.read(name)], shape)
    assert torch.equal(codes, again[0])
    assert torch.equal(scales, again[1])


def test_rank_and_alpha_patterns_choose_as_peft_does(base: Path) -> None:
    """By the end of a name, by a regular expression, or by the whole name; the first one counts."""
    adapter = write_adapter(
        base,
        ranks={QUERY: 2, WIDE: 3},
        rank_pattern={"q_proj": 2, r"decoder\.layers\.\d+\.fc1": 3, "proj": 7},
        alpha_pattern={f"^{VALUE}": 32, "v_proj": 1},
    )
    scales = {QUERY: 16 / 2, WIDE: 16 / 3, VALUE: 32 / 4}
    require_equal(open_checkpoint(str(adapter)), by_formula(base, adapter, scales))


def test_rank_stabilised_scaling(base: Path) -> None:
    adapter = write_adapter(base, ranks={WIDE: 9}, rank_pattern={"fc1": 9}, use_rslora=True)
    scales = dict.fromkeys((QUERY, VALUE), 16 / math.sqrt(4)) | {WIDE: 16 / math.sqrt(9)}
    require_equal(open_checkpoint(str(adapter)), by_formula(base, adapter, scales))


def test_modules_that_were_trained_whole_replace_the_bases(base: Path) -> None:
    adapter = write_adapter(base, modules_to_save=["encoder.layer_norm"])
    trained = {f"{NORM}.weight": torch.randn(64), f"{NORM}.bias": torch.randn(64)}
    change(adapter, {PREFIX + name: tensor for name, tensor in trained.items()})
    expected = by_formula(base, adapter, dict.fromkeys((QUERY, VALUE, WIDE), 4.0)) | trained
    require_equal(open_checkpoint(str(adapter)), expected)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "LOHA"}, "peft_type: Input should be 'LORA' .here 'LOHA'"),
        ({"use_dora": True}, "use_dora: True is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out: True is not supported"),
        ({"lora_bias": True}, "lora_bias: True is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication: "),
        ({"target_parameters": ["x"]}, "target_parameters: "),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: "),
        ({"bias": "all"}, "bias: Input should be 'none'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: "),
        ({"of_a_later_peft": 3}, "of_a_later_peft: 3 is not supported"),
        ({"r": 0}, "r: Input should be greater than 0"),
        ({"lora_alpha": "much"}, "lora_alpha: "),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        ({"r": 8}, "need others"),
        ({"modules_to_save": ["conv1"]}, "no tensor of 'conv1'"),
    ],
)
def test_settings_that_change_the_mathematics_are_refused(
    base: Path, settings: dict[str, Any], told: str
) -> None:
    adapter = write_adapter(base, **settings)
    with pytest.raises(CheckpointError, match=told) as refused:
        open_checkpoint(str(adapter))
    assert str(adapter) in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({f"{PREFIX}{NORM}.weight": torch.zeros(64)}, f"{NORM}.weight cannot be merged"),
        (
            {f"{PREFIX}{QUERY}.lora_magnitude_vector": torch.zeros(64)},
            "lora_magnitude_vector cannot be merged",
        ),
        (
            {f"{PREFIX}{QUERY}.lora_A.default.weight": torch.zeros(4, 64)},
            "lora_A.default.weight cannot be merged",
        ),
        ({f"{QUERY}.lora_A.weight": torch.zeros(4, 64)}, f"the tensor {QUERY}.lora_A.weight"),
        ({f"{PREFIX}{QUERY}.lora_A.weight": None}, f"{QUERY}.lora_A.weight is missing"),
        ({f"{PREFIX}{QUERY}.lora_B.weight": None}, f"{QUERY}.lora_B.weight is missing"),
        ({f"{PREFIX}{QUERY}.lora_A.weight": torch.zeros(4, 63)}, r"factors \[4, 63\]"),
        (
            {
                f"{PREFIX}nowhere.lora_A.weight": torch.zeros(4, 64),
                f"{PREFIX}nowhere.lora_B.weight": torch.zeros(64, 4),
            },
            "nowhere.weight, which the base lacks",
        ),
        (
            {
                f"{PREFIX}model.encoder.conv1.lora_A.weight": torch.zeros(4, 80, 3),
                f"{PREFIX}model.encoder.conv1.lora_B.weight": torch.zeros(64, 4, 1),
            },
            "conv1 is not a linear module",
        ),
        (
            {
                f"{PREFIX}model.decoder.embed_tokens.lora_A.weight": torch.zeros(4, 64),
                f"{PREFIX}model.decoder.embed_tokens.lora_B.weight": torch.zeros(0, 4),
            },
            "factors",
        ),
    ],
)
def test_every_tensor_is_used_or_named(
    base: Path, tensors: dict[str, Tensor | None], told: str
) -> None:
    adapter = write_adapter(base)
    change(adapter, tensors)
    with pytest.raises(CheckpointError, match=told):
        open_checkpoint(str(adapter))


def test_a_weight_that_others_share_is_not_changed(base: Path) -> None:
    adapter = write_adapter(base, modules_to_save=["embed_tokens"])
    name = "model.decoder.embed_tokens.weight"
    change(adapter, {PREFIX + name: load_file(base / "model.safetensors")[name] + 1})
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight, which shares its values"):
        open_checkpoint(str(adapter))


def test_a_replacement_of_another_shape(base: Path) -> None:
    adapter = write_adapter(base, modules_to_save=["layer_norm"])
    change(adapter, {f"{PREFIX}{NORM}.weight": torch.zeros(63)})
    with pytest.raises(CheckpointError, match=r"is \[63\], in the base \[64\]"):
        open_checkpoint(str(adapter))


def test_an_adapter_that_brings_values_that_are_no_numbers(base: Path) -> None:
    adapter = write_adapter(base)
    change(adapter, {f"{PREFIX}{QUERY}.lora_B.weight": torch.full((64, 4), torch.nan)})
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: .*q_proj.*NaN"):
        open_checkpoint(str(adapter)).read(f"{QUERY}.weight")


@pytest.mark.parametrize("weights", [None, b"", b"too short"])
def test_adapter_weights_that_are_missing_or_damaged(base: Path, weights: bytes | None) -> None:
    adapter = write_adapter(base)
    (adapter / "adapter_model.safetensors").unlink()
    if weights is not None:
        (adapter / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        open_checkpoint(str(adapter))


@pytest.mark.parametrize("named", ["../gone", "/nowhere/whisper-base", "whisper-base", "."])
def test_a_base_that_is_not_there(base: Path, named: str) -> None:
    adapter = write_adapter(base, base_model_name_or_path=named)
    with pytest.raises(CheckpointError, match=r"its base .* cannot be used") as refused:
        open_checkpoint(str(adapter))
    assert "Set base_model_name_or_path there" in str(refused.value)


def test_a_base_from_the_hub_comes_at_the_adapters_revision(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(repo: str, revision: str | None, *_: object, **__: object) -> None:
        asked.append((repo, revision))
        msg = f"{repo} is not there"
        raise HubError(msg)

    monkeypatch.setattr("exporter.checkpoint.checkpoint.fetch", fetch)
    named = {"base_model_name_or_path": "org/whisper", "revision": "v2"}
    adapter = write_adapter(base, **named)
    with pytest.raises(HubError, match="its base 'org/whisper' cannot be used: org/whisper is not"):
        open_checkpoint(str(adapter))
    assert asked == [("org/whisper", "v2")]


def test_identity_covers_adapter_and_base(base: Path, tiny_whisper: Path) -> None:
    adapter = write_adapter(base)
    first = open_checkpoint(str(adapter)).sha256
    assert first == open_checkpoint("adapter", base.parent).sha256
    assert first != open_checkpoint(str(base)).sha256
    config = adapter / "adapter_config.json"
    text = config.read_text()
    config.write_text(text.replace('"lora_alpha": 16', '"lora_alpha": 17'))
    assert open_checkpoint(str(adapter)).sha256 != first
    config.write_text(text)
    change(adapter, {f"{PREFIX}{QUERY}.lora_B.weight": torch.zeros(64, 4)})
    second = open_checkpoint(str(adapter)).sha256
    assert second != first
    weights = load_file(base / "model.safetensors")
    save_file({**weights, f"{NORM}.bias": torch.ones(64)}, base / "model.safetensors")
    assert open_checkpoint(str(adapter)).sha256 not in {first, second}


def test_companions_come_from_the_adapter_or_else_from_its_base(base: Path) -> None:
    adapter = write_adapter(base)
    opened = open_checkpoint(str(adapter))
    assert {path.parent for path in opened.companions.values()} == {adapter / ".." / "base"}
    shutil.copy(base / "preprocessor_config.json", adapter)
    (adapter / "tokenizer_config.json").write_text("{}")  # alone no tokenizer
    opened = open_checkpoint(str(adapter))
    assert opened.companions["preprocessor_config.json"].parent == adapter
    assert opened.companions["tokenizer_config.json"].parent != adapter
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(base / name, adapter)
    opened = open_checkpoint(str(adapter))
    assert opened.companions["vocab.json"].parent == adapter
    assert "tokenizer.json" not in opened.companions, "another tokenizer's"
    with opened.gathered() as folder:
        assert {path.name for path in folder.iterdir()} == opened.companions.keys()
        assert FAMILIES["whisper"].processor(folder).tokenizer


def test_the_base_tells_the_models_shape(base: Path) -> None:
    adapter = write_adapter(base)
    (adapter / "config.json").write_text("{}")
    opened = open_checkpoint(str(adapter))
    assert opened.config == open_checkpoint(str(base)).config
    assert opened.companions["config.json"].parent != adapter


def test_an_adapter_beside_whole_weights_is_merged_and_told(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As transformers does where peft is installed; without, it would be silently ignored."""
    adapter = write_adapter(base)
    alone = open_checkpoint(str(adapter))
    for silent in (alone, open_checkpoint(str(base))):
        warn_of_adapter(silent)
    assert not caplog.text
    shutil.copytree(base, adapter, dirs_exist_ok=True)
    opened = open_checkpoint(str(adapter))
    for name in alone.tensors:
        assert torch.equal(opened.read(name), alone.read(name))
    assert isinstance(opened.tensors[f"{QUERY}.weight"], Merged)
    warn_of_adapter(opened)
    assert "is merged into the weights beside it" in caplog.text
    assert not opened.plain
    assert open_checkpoint(str(base)).plain
    assert opened.sha256 != open_checkpoint(str(base)).sha256
    (adapter / "adapter_model.safetensors").unlink()
    left = open_checkpoint(str(adapter))
    require_equal(left, load_file(base / "model.safetensors"))
    warn_of_adapter(left)
    assert "adapter_config.json is ignored" in caplog.text


def test_a_repositorys_weights_include_the_adapter_beside_them() -> None:
    names = {"model.safetensors", "adapter_config.json", "adapter_model.safetensors"}
    wanted = ["model.safetensors", "adapter_model.safetensors"]
    assert weight_names(names, "org/x", Path) == wanted
    assert weight_names(names - {"adapter_config.json"}, "org/x", Path) == wanted[:1]


def test_an_adapter_of_a_compiled_model(base: Path) -> None:
    adapter = write_adapter(base, (QUERY,))
    expected = open_checkpoint(str(adapter)).read(f"{QUERY}.weight")
    path = adapter / "adapter_model.safetensors"
    renamed = {
        name.replace(PREFIX, f"{PREFIX}_orig_mod."): t for name, t in load_file(path).items()
    }
    save_file(renamed, path)
    assert torch.equal(open_checkpoint(str(adapter)).read(f"{QUERY}.weight"), expected)


def test_links_out_of_an_adapter_are_not_followed(base: Path) -> None:
    adapter = write_adapter(base)
    (adapter / "normalizer.json").symlink_to(base / "config.json")
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        open_checkpoint(str(adapter))


def test_the_original_is_the_merged_model_in_float32(tmp_path: Path, english_whisper: Path) -> None:
    base = Path(shutil.copytree(english_whisper, tmp_path / "base"))
    adapter = write_adapter(base, (QUERY, WIDE))
    model = load_original(str(adapter), threads=1).model
    by_hand = WhisperForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    by_hand.load_state_dict(
        by_formula(base, adapter, dict.fromkeys((QUERY, WIDE), 4.0)), strict=False
    )
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)


FLOAT = "quantization: {default: float}\n"  # the adapter alone may change words


@pytest.mark.slow
@pytest.mark.usefixtures("steps_here")
def test_an_adapter_becomes_an_artifact_that_speaks_as_the_merged_model(base: Path) -> None:
    from exporter.build.pipeline import build
    from exporter.system.progress import silent
    from tests.support.recipes import write_recipe

    write_adapter(base)
    shutil.copy(base / "preprocessor_config.json", base.parent / "adapter")
    wanted = write_recipe(base.parent, Path("adapter"), "{language: en, task: transcribe}", FLOAT)
    output = base.parent / "artifacts"
    (built,) = build(wanted, output=output, targets=["torch-int8"], progress=silent)
    original = load_original("adapter", base.parent, threads=1, decoding=wanted.decoding)
    clips = sorted((base.parent / "clips").glob("*.wav"))
    expected = [t.text for t in original.transcribe(clips)]
    assert all(expected)
    assert [t.text for t in load(built.path, threads=1).transcribe(clips)] == expected
    assert not (built.path / "adapter_config.json").exists()
    assert isinstance(open_checkpoint("adapter", base.parent).tensors[f"{QUERY}.weight"], Merged)
    assert built.manifest.checkpoint.sha256 == open_checkpoint("adapter", base.parent).sha256
