"""The passes over a traced ONNX graph change nothing that it computes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.errors import CheckpointError
from exporter.families import FAMILIES
from exporter.families.graph import Graph, alike, parameter_names
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.float import Scheme as Float
from exporter.targets.onnx.graphs import external_data, trace
from exporter.targets.onnx.modules import replace_modules
from tests.support.plans import INT8, plan_for, whisper_plan


def graphs(folder: Path, plan: QuantizationPlan | None = None) -> list[Graph]:
    family = FAMILIES["whisper"]
    model = family.skeleton(open_checkpoint(str(folder)).config)
    replace_modules(model, plan or plan_for(model), {}, torch.int8)
    return family.graphs(model, cache="dynamic")


def operations(graph: ir.Graph, names: dict[str, Any]) -> list[Any]:
    """Every node with what it takes and gives, values told by the order in which they are made.

    Constants, which a trace shares where it can, are told where they are taken.
    """
    told = []
    for node in graph:
        if node.op_type == "Constant":
            (constant,) = (attribute(a, names) for a in node.attributes.values())
            names[str(node.outputs[0].name)] = constant
            continue
        taken = [names.get(str(v.name), v.name) if v is not None else None for v in node.inputs]
        if node.op_type == "Shape":  # the length of the past is that of any layer's
            taken = [re.sub(r"(past_key_values)\.\d+\.decoder\.\w+", r"\1", t) for t in taken]
        for output in node.outputs:
            names[str(output.name)] = f"value{len(made := names.setdefault('', []))}"
            made.append(output)
        attributes = [attribute(a, names) for a in node.attributes.values()]
        told.append((node.domain, node.op_type, taken, len(node.outputs), attributes))
    return told


def attribute(given: ir.Attr, names: dict[str, Any]) -> Any:
    if given.type == ir.AttributeType.GRAPH:
        inner = given.as_graph()
        told = operations(inner, names)
        return given.name, told, [names.get(str(v.name), v.name) for v in inner.outputs]
    value = given.value
    return given.name, value.numpy().tolist() if given.type == ir.AttributeType.TENSOR else value


@pytest.mark.parametrize("name", ["encoder_model", "decoder_model_merged", "step"])
def test_a_repeated_layer_is_what_tracing_every_layer_gives(tiny_whisper: Path, name: str) -> None:
    (graph,) = (graph for graph in graphs(tiny_whisper) if graph.name == name)
    assert graph.single_layer is not None
    assert graph.num_layers > 1
    whole = trace._trace(replace(graph, single_layer=None))
    repeated = trace._trace(graph)
    assert operations(repeated.graph, {}) == operations(whole.graph, {})
    for side in ("inputs", "outputs"):
        values = [[*getattr(model.graph, side)] for model in (repeated, whole)]
        told = [[(v.name, v.type, str(v.shape)) for v in side] for side in values]
        assert told[0] == told[1]
    weights = [
        {n: (v.dtype, str(v.shape)) for n, v in model.graph.initializers.items()}
        for model in (repeated, whole)
    ]
    assert weights[0] == weights[1]


def test_layers_that_differ_are_traced_one_by_one(tiny_whisper: Path) -> None:
    plan = QuantizationPlan({"model.decoder.layers.0.fc1": INT8})
    firsts = {graph.name: graph.single_layer for graph in graphs(tiny_whisper, plan)}
    assert firsts["encoder_model"] is not None
    assert firsts["decoder_model_merged"] is firsts["step"] is None
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 3)])
    assert not alike(layers)
    norms = torch.nn.ModuleList([torch.nn.LayerNorm(2), torch.nn.LayerNorm(2, eps=1e-3)])
    assert not alike(norms)


def test_values_beyond_float16_are_refused(tiny_whisper: Path, tmp_path: Path) -> None:
    """They would become infinite without a word."""
    checkpoint = open_checkpoint(str(tiny_whisper))
    encoder = graphs(tiny_whisper, whisper_plan(tiny_whisper, Float(dtype="float16")))[0]
    path = tmp_path / "encoder_model.onnx"
    names = parameter_names(encoder, encoder.module)
    external_data.save(trace._trace(encoder), path, names)

    def read(name: str) -> torch.Tensor:
        tensor = checkpoint.read(f"model.{names[name]}")
        return (tensor + 70000).t() if name.endswith("fc1.weight") else tensor

    with pytest.raises(CheckpointError, match=r"fc1\.weight has values beyond the range"):
        external_data.fill(path, read, lambda _what, _done: None)
