"""The cut for a device: a step holds nothing that asks the host, and shapes that stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from exporter.families.graph import Graph, parameter_names
from exporter.families.joined import read_joined
from exporter.families.layered import LayeredGraph
from exporter.families.whisper import construct
from exporter.families.whisper import family as whisper
from exporter.families.whisper.graphs.device import STATE

ROWS = (1, 5)
ADVANCED = {"ring", "turn", "logprob", *STATE} - {"least", "limit"}


def model_of(folder: Path, dtype: torch.dtype) -> nn.Module:
    return whisper.skeleton(construct.values_of(folder / "config.json"), dtype)


def parts(folder: Path, dtype: torch.dtype, *, narrow: bool = False) -> Iterator[Graph]:
    for graph in whisper.device_graphs(model_of(folder, dtype), ROWS, narrow=narrow):
        yield from graph.parts if isinstance(graph, LayeredGraph) else [graph]


def exported(graph: Graph) -> ExportedProgram:
    names = {name for axes in graph.dynamic.values() for name in axes.values()}
    dims = {name: Dim(name, min=1, max=64) for name in names}
    shapes = {
        name: {axis: dims[dim] for axis, dim in graph.dynamic.get(name, {}).items()}
        for name in graph.inputs
    }
    return torch.export.export(
        graph.module, tuple(graph.inputs.values()), dynamic_shapes=(tuple(shapes.values()),)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("narrow", [False, True])
def test_no_part_asks_the_host(tiny_whisper: Path, dtype: torch.dtype, narrow: bool) -> None:
    for graph in parts(tiny_whisper, dtype, narrow=narrow):
        program = exported(graph)
        called = [str(node.target) for node in program.graph.nodes]
        asking = ("aten.item", "_local_scalar_dense", "cond", "nonzero", "sym_constrain")
        assert not [name for name in called if any(word in name for word in asking)], graph.name
        values = [node.meta.get("val") for node in program.graph.nodes]
        symbols = {
            symbol
            for value in values
            if isinstance(value, torch.Tensor)
            for size in value.shape
            if isinstance(size, torch.SymInt)
            for symbol in size.node.expr.free_symbols
        }
        assert not [each for each in symbols if str(each).startswith("u")], graph.name
        assert len(symbols) == len({n for axes in graph.dynamic.values() for n in axes.values()})


def test_only_what_is_named_is_written(tiny_whisper: Path) -> None:
    for graph in parts(tiny_whisper, torch.float16):
        signature = exported(graph).run_decompositions({}).graph_signature
        places = [*graph.inputs]
        names = [spec.arg.name for spec in signature.input_specs if spec.target is None]
        by_argument = dict(zip(names, places, strict=True))
        written = {by_argument[name] for name in signature.user_inputs_to_mutate.values()}
        assert written == set(graph.mutated), graph.name


def test_steps_have_fixed_shapes_and_name_their_state(tiny_whisper: Path) -> None:
    graphs = {g.name: g for g in whisper.device_graphs(model_of(tiny_whisper, torch.float16), ROWS)}
    assert [*graphs] == ["encoder", "cross", "prompt", "step_1", "best_1", "step_5", "best_5"]
    for rows in ROWS:
        step: Any = graphs[f"step_{rows}"]
        assert not step.before.dynamic
        assert not step.after.dynamic
        # Only the number of slots and of windows is free: memory follows what is decoded.
        assert {*step.layer.dynamic} == {
            *("ancestors", "cache.0.key", "cache.0.value", "cross.0.key", "cross.0.value")
        }
        assert step.layer.mutated == ("cache.0.key", "cache.0.value")
        assert {*step.after.mutated} == ADVANCED
        assert not graphs[f"best_{rows}"].dynamic


def test_parts_hold_the_models_tensors_joined(tiny_whisper: Path) -> None:
    model = whisper.open_original(tiny_whisper)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graphs = whisper.device_graphs(model, (1,))
    read = 0
    for graph in graphs:
        for part in graph.parts if isinstance(graph, LayeredGraph) else [graph]:
            for own, name in parameter_names(part, model).items():
                stored = read_joined(model, name, before.__getitem__)
                assert torch.equal(part.module.state_dict()[own], stored)
                read += 1
    assert read
    joined = model.get_parameter("model.decoder.layers.1.self_attn.qkv_proj.weight")
    width = joined.shape[1]
    key = before["model.decoder.layers.1.self_attn.k_proj.weight"]
    assert torch.equal(joined[width : 2 * width], key)
    bias = model.get_parameter("model.decoder.layers.1.self_attn.qkv_proj.bias")
    assert not bias[width : 2 * width].any()
