"""ONNX graphs that never end, or ask for more memory than there is, and a step that runs one."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

INPUT, OUTPUT = "input_features", "last_hidden_state"


def endless() -> bytes:
    """A loop of 2**62 rounds."""
    flag = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Add", ["value", "value"], ["twice"]),
        ],
        "body",
        [
            flag("round", TensorProto.INT64, []),
            flag("go", TensorProto.BOOL, []),
            flag("value", TensorProto.FLOAT, [1, 4]),
        ],
        [flag("goes", TensorProto.BOOL, []), flag("twice", TensorProto.FLOAT, [1, 4])],
    )
    rounds = helper.make_tensor("rounds", TensorProto.INT64, [], [2**62])
    nodes = [helper.make_node("Loop", ["rounds", "", INPUT], [OUTPUT], body=body)]
    return _model(nodes, [rounds])


def huge() -> bytes:
    """Eight terabytes, of a shape that only the input decides, so that nothing is folded."""
    times = helper.make_tensor("times", TensorProto.INT64, [1], [2**41])
    nodes = [
        helper.make_node("Shape", [INPUT], ["shape"]),
        helper.make_node("ReduceMax", ["shape"], ["most"], keepdims=1),
        helper.make_node("Min", ["most", "one"], ["ones"]),
        helper.make_node("Mul", ["ones", "times"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], [OUTPUT]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    return _model(nodes, [times, one], ["size"])


def huge_at_once() -> bytes:
    """The same, while the graph is opened."""
    size = helper.make_tensor("size", TensorProto.INT64, [1], [2**41])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", [INPUT, "zero"], [OUTPUT]),
    ]
    return _model(nodes, [size])


def _model(nodes: list[Any], tensors: list[Any], shape: Sequence[int | str] = (1, 4)) -> bytes:
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 4])
    result = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "graph", [given], [result], tensors)
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return data


def run(request: dict[str, Any], _progress: object) -> dict[str, Any]:
    """Open a graph and call it, each within a second: a step of `exporter.system.worker`."""
    import torch

    from exporter.targets.onnx.session import open_session

    path = Path(request["graph"])
    session = open_session(path, path.read_bytes(), 1, limit_s=1.0)
    started = time.monotonic()
    session({INPUT: torch.ones(1, 4)})
    return {"took_s": time.monotonic() - started}
