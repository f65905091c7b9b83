"""The recipe that a search writes: the plan exactly, in few patterns, all else as it was."""

from pathlib import Path

import pytest

from exporter.errors import RecipeError
from exporter.recipe import read
from exporter.system.progress import silent
from exporter.tune.recipe_text import tuned_text
from exporter.tune.subject import Subject, open_subject
from tests.tune.conftest import GROUPS, Write

FRAGILE = {"encoder layer 1, feed-forward", "head"}
OWN = "[{kind: onnx-int8, quantization: {default: {scheme: dynamic-int8, bits: 7}}}]"


def subject(path: Path, target: str | None = None) -> Subject:
    return open_subject(read(path), target, path.parent / "work", silent)


def written(one: Subject, left: set[str], place: Path) -> str:
    """The text without the groups `left`; that it gives the plan exactly is checked here."""
    quantized = [group.name for group in one.groups if group.name not in left]
    text = tuned_text(one.recipe, one.index, one.rules(quantized), "Found.", place)
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    one.require_plan(read(place), quantized)
    return text


def test_groups_of_a_whisper(write: Write) -> None:
    assert [group.name for group in subject(write()).groups] == GROUPS


def test_comments_and_all_other_keys_stay(write: Write) -> None:
    path = write()
    text = written(subject(path), FRAGILE, path.with_name("out.yaml"))
    rules = (
        "# Found.\nquantization:\n  default: dynamic-int8\n  modules:\n"
        '    "model.encoder.layers.1.fc?": float\n    "lm_head": float\n'
    )
    assert sorted(text.split("quantization:")[1].splitlines()) == sorted(
        rules.split("quantization:")[1].splitlines()
    )
    before = path.read_text().replace("name: tiny", "name: tiny-tuned").rstrip()
    assert text.startswith(before), "the rest is as it was, with its comments"
    assert read(path.with_name("out.yaml")).name == "tiny-tuned"


def test_rules_of_the_recipe_are_replaced_where_they_stood(write: Write) -> None:
    shared = "quantization:  # ours\n  modules:\n    '*.fc2': {scheme: dynamic-int8, bits: 7}\n"
    path = write(shared)
    text = written(subject(path), FRAGILE, path.with_name("out.yaml"))
    assert text.count("quantization:") == 1
    assert '"*.fc2": {"scheme": "dynamic-int8", "bits": 7}' in text
    assert text.index("quantization:") < text.index("targets:")
    assert "# Toys." in text


def test_a_rule_that_decides_nothing_any_more_goes(write: Write) -> None:
    path = write("quantization:\n  modules:\n    lm_head: {scheme: dynamic-int8, bits: 7}\n")
    text = written(subject(path), {"head"}, path.with_name("out.yaml"))
    assert "bits" not in text


def test_what_is_float_already_is_in_no_group(write: Write) -> None:
    path = write("quantization: {modules: {lm_head: float, '*.encoder.*': float}}\n")
    one = subject(path)
    assert [group.name for group in one.groups] == [g for g in GROUPS if g.startswith("decoder")]
    text = written(one, {"decoder layer 0, self_attn"}, path.with_name("out.yaml"))
    assert '"*.encoder.*": float' in text


def test_a_target_with_rules_of_its_own_keeps_them_to_itself(write: Write) -> None:
    path = write("quantization: {default: float}\n", targets=OWN)
    text = written(subject(path), FRAGILE, path.with_name("out.yaml"))
    assert "quantization: {default: float}\n" in text
    assert '"bits": 7' in text


def test_paths_are_relative_to_the_new_place(write: Write) -> None:
    path = write()
    out = path.parent / "sub" / "out.yaml"
    written(subject(path), FRAGILE, out)
    made = read(out)
    assert made.checkpoint == "../checkpoint"
    assert made.data is not None
    assert made.data.clips == "../judging"


def test_a_recipe_in_one_line_is_written_anew(tmp_path: Path, write: Write) -> None:
    path = write()
    flow = tmp_path / "flow.yaml"
    flow.write_text(
        "{name: tiny, checkpoint: checkpoint, targets: [{kind: torch-int8}], "
        "data: {clips: judging}, gate: {min_clips: 1, max_wer_increase: 1}}\n"
    )
    assert path.exists()
    text = written(subject(flow), FRAGILE, tmp_path / "out.yaml")
    assert text.startswith("# Found.\n")


@pytest.mark.parametrize("layers", [{0}, {1}, {0, 1}])
def test_a_run_of_layers_is_one_pattern(write: Write, layers: set[int]) -> None:
    path = write()
    left = {f"decoder layer {layer}, encoder_attn" for layer in layers}
    text = written(subject(path), left, path.with_name("out.yaml"))
    assert text.count(": float") == 1


def test_no_data_no_gate(write: Write) -> None:
    path = write(data="")
    with pytest.raises(RecipeError, match="names no `data`"):
        subject(path)


def test_nothing_quantized_nothing_to_search(write: Write) -> None:
    with pytest.raises(RecipeError, match="quantizes no module"):
        subject(write("quantization: {default: float}\n"))


def test_a_target_that_is_not_there(write: Write) -> None:
    with pytest.raises(RecipeError, match="no target 'aoti': onnx-int8, torch-int8"):
        subject(write(), "aoti")
