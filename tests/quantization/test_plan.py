"""The plan: which pattern decides about which module, as data and back, and its bytes."""

from pathlib import Path

import pytest
import torch
from torch import nn

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import RecipeError
from exporter.families import FAMILIES
from exporter.formats.tensor_io import FLOATS
from exporter.quantization import summary
from exporter.quantization.plan import (
    PatternError,
    QuantizationPlan,
    match_rules,
    require_schemes,
    shared_tables,
)
from exporter.quantization.schemes import SCHEMES
from exporter.quantization.schemes.base import QuantizationScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.float import Scheme as Float
from exporter.targets import TARGETS, default_scheme
from tests.support.plans import FLOAT, INT8, plan_for, whisper_plan

WHISPER = FAMILIES["whisper"]
SEVEN = DynamicInt8(bits=7)


def model() -> nn.ModuleDict:
    def layer() -> nn.ModuleDict:
        return nn.ModuleDict({"fc1": nn.Linear(2, 3), "fc2": nn.Linear(3, 2)})

    layers = nn.ModuleList([layer(), layer()])
    parts = {"conv": nn.Conv1d(2, 2, 1, groups=2), "layers": layers, "head": nn.Linear(2, 5)}
    return nn.ModuleDict(parts)


def plan(**patterns: QuantizationScheme) -> dict[str, QuantizationScheme]:
    return dict(plan_for(model(), patterns=patterns, head="head").modules)


ALL = ["layers.0.fc1", "layers.0.fc2", "layers.1.fc1", "layers.1.fc2", "head"]


def test_the_default_is_every_linear_modules() -> None:
    assert plan() == dict.fromkeys(ALL, INT8)
    assert plan_for(model(), FLOAT, head="head").quantized == {}


def test_the_first_pattern_that_matches_counts() -> None:
    got = plan(**{"layers.0.*": FLOAT, "*.fc2": SEVEN})
    assert got == {**dict.fromkeys(ALL, INT8), "layers.1.fc2": SEVEN} | {
        "layers.0.fc1": FLOAT,
        "layers.0.fc2": FLOAT,
    }
    assert list(got) == ALL, "in the model's order, whichever pattern came first"
    other = plan(**{"*.fc2": SEVEN, "layers.0.*": FLOAT})
    assert other["layers.0.fc2"] == SEVEN


def test_lm_head_is_the_head_whatever_a_family_calls_it(tiny_whisper: Path) -> None:
    assert plan(lm_head=FLOAT)["head"] == plan(head=FLOAT)["head"] == FLOAT
    whisper = whisper_plan(tiny_whisper, patterns={"lm_head": FLOAT})
    assert [name for name in whisper.modules if name not in whisper.quantized] == ["proj_out"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"*.fc3": FLOAT}, r"'\*\.fc3' matches no module that can be quantized; the nearest is"),
        ({"layer.1.fc2": FLOAT}, "the nearest is layers.1.fc2"),
        ({"norm": INT8}, "'norm' matches no module that can be quantized; the nearest is "),
        ({"": FLOAT}, "'' matches no module"),
        ({"*": FLOAT, "*.fc2": SEVEN}, r"earlier patterns match every module that '\*\.fc2' does"),
        ({"*.fc?": FLOAT, "layers.0.*": FLOAT}, "the first one counts: write it before them"),
    ],
)
def test_a_pattern_that_decides_nothing(
    patterns: dict[str, QuantizationScheme], message: str
) -> None:
    with pytest.raises(PatternError, match=message) as caught:
        match_rules(model(), patterns, INT8, "head")
    assert caught.value.pattern == list(patterns)[-1]


def test_a_model_without_a_product_has_an_empty_plan() -> None:
    assert plan_for(nn.LayerNorm(2)) == QuantizationPlan()
    with pytest.raises(PatternError, match="the model has none"):
        plan_for(nn.LayerNorm(2), patterns={"*": FLOAT})


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(1, 4, 10, stride=5),  # the first of a waveform's front end
        nn.Conv1d(4, 4, 3, groups=2),
        nn.Conv1d(4, 4, 3, dilation=2),
        nn.Conv1d(4, 4, 3, padding="same"),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3),
    ],
)
def test_a_convolution_that_is_no_product_of_rows_stays_float(conv: nn.Module) -> None:
    assert plan_for(nn.ModuleDict({"conv": conv})) == QuantizationPlan()


def test_equal_plans_are_equal_data_and_come_back() -> None:
    narrow = Float(dtype="float16")
    one = plan_for(model(), patterns={"head": narrow, "*.fc1": SEVEN}, head="head")
    other = plan_for(model(), INT8, {"*.fc1": SEVEN, "lm_head": narrow}, head="head")
    assert one.as_data() == other.as_data()
    assert QuantizationPlan.from_data(one.as_data()) == one
    assert one.as_data() != plan_for(model(), patterns={"*.fc1": SEVEN}, head="head").as_data()
    assert [(group["scheme"], group["modules"]) for group in one.as_data()] == [
        ("dynamic-int8", ["layers.0.fc1", "layers.1.fc1"]),
        ("dynamic-int8", ["layers.0.fc2", "layers.1.fc2"]),
        ("float", ["head"]),
    ]


def test_a_scheme_tells_its_name_and_what_is_not_its_default() -> None:
    assert str(INT8) == "dynamic-int8"
    assert str(DynamicInt8(bits=7, per_channel=False)) == "dynamic-int8, bits 7, per_channel false"
    assert str(Float(dtype="bfloat16")) == "float, dtype bfloat16"
    for name in SCHEMES:
        assert SCHEMES[name].Scheme.name == name
        assert SCHEMES[name].Scheme() == SCHEMES[name].Scheme()


class Unknown(DynamicInt8):
    """A scheme that no target knows."""

    name = "other-int8"


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_refuses_a_scheme_that_it_does_not_have(kind: str) -> None:
    default = default_scheme(kind)
    assert {default, "float"} <= TARGETS[kind].SCHEMES
    usual = plan_for(model(), SCHEMES[default].Scheme(), head="head")
    require_schemes(usual, kind, TARGETS[kind].SCHEMES)
    strange = plan_for(model(), SCHEMES[default].Scheme(), {"head": Unknown()}, head="head")
    with pytest.raises(RecipeError, match=f"head: {kind} has no `other-int8`; it has "):
        require_schemes(strange, kind, TARGETS[kind].SCHEMES)


def test_bytes_before_and_after(tiny_whisper: Path) -> None:
    """A tied head has no bytes of its own until it is quantized."""
    checkpoint = open_checkpoint(str(tiny_whisper))
    skeleton = WHISPER.skeleton(checkpoint.config)
    rules = {"*.fc1": Float(dtype="float16"), "lm_head": SEVEN}
    matches = match_rules(skeleton, rules, INT8, WHISPER.HEAD)
    narrow, head, others = summary.rows(matches, skeleton, checkpoint, WHISPER.TIED)
    assert (narrow["pattern"], narrow["modules"], narrow["tied"]) == ("*.fc1", 4, [])
    assert narrow["bytes_before"] == 2 * narrow["bytes_after"] == 4 * 4 * 128 * 64
    words = skeleton.get_parameter("proj_out.weight").shape[0]
    assert (head["label"], head["tied"]) == ("dynamic-int8, bits 7", ["proj_out"])
    assert (head["bytes_before"], head["bytes_after"]) == (0, words * 64 + words * 4)
    products = [m for m in skeleton.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    assert (others["pattern"], others["modules"]) == (None, len(products) - 5)
    as_float = match_rules(skeleton, {"lm_head": FLOAT, "*": INT8}, INT8, WHISPER.HEAD)
    row, _ = summary.rows(as_float, skeleton, checkpoint, WHISPER.TIED)
    assert (row["bytes_before"], row["bytes_after"], row["tied"]) == (0, 0, [])
    assert torch.device("meta") == next(skeleton.parameters()).device


TABLE = "model.decoder.embed_tokens"


@pytest.mark.parametrize(
    ("patterns", "default", "stored"),
    [
        ({}, INT8, INT8),
        ({"lm_head": SEVEN}, INT8, SEVEN),
        ({"*.decoder.*": SEVEN}, INT8, INT8),
        ({"lm_head": INT8}, FLOAT, INT8),
        ({"*.embed_tokens": FLOAT}, INT8, FLOAT),
        ({"lm_head": FLOAT}, INT8, None),
        ({"lm_head": DynamicInt8(per_channel=False)}, INT8, None),
        ({}, FLOAT, None),
    ],
)
def test_a_table_with_the_heads_weights_has_its_scheme(
    patterns: dict[str, QuantizationScheme],
    default: QuantizationScheme,
    stored: QuantizationScheme | None,
    tiny_whisper: Path,
) -> None:
    plan = whisper_plan(tiny_whisper, default, patterns)
    assert plan.modules.get(TABLE) == stored
    assert "model.decoder.embed_positions" not in plan.modules


def test_a_shared_table_counts_once(tiny_whisper: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_whisper))
    skeleton = WHISPER.skeleton(checkpoint.config)
    shared = shared_tables(WHISPER.TIED, checkpoint.tensors)
    matches = match_rules(skeleton, {"lm_head": INT8}, FLOAT, WHISPER.HEAD, shared)
    head, _ = summary.rows(matches, skeleton, checkpoint, WHISPER.TIED)
    words, width = skeleton.get_parameter("proj_out.weight").shape
    stored = checkpoint.tensors[f"{TABLE}.weight"]
    assert head["modules"] == 2
    assert head["bytes_before"] == words * width * FLOATS[stored.dtype].itemsize
    assert head["bytes_after"] == words * width + 4 * words


def test_only_a_table_with_the_heads_weights_is_shared() -> None:
    assert shared_tables(WHISPER.TIED, {"model.decoder.embed_tokens.weight"}) == {TABLE: "proj_out"}
    assert shared_tables(WHISPER.TIED, {"proj_out.weight"}) == {}
    words = nn.ModuleDict({"table": nn.Embedding(5, 2), "head": nn.Linear(2, 5)})
    with pytest.raises(PatternError, match="no module that 'table' matches can be `dynamic-int8`"):
        match_rules(words, {"table": INT8}, INT8, "head", {"table": "head"})
