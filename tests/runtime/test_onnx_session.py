"""Graphs are opened beside each other, and each error tells its file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exporter.errors import IntegrityError
from exporter.runtime.onnx.session import open_graphs


def graph(operator: str) -> bytes:
    """A graph of one operator on two numbers."""
    numbers = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    node = helper.make_node(operator, ["x"], ["y"])
    whole = helper.make_graph([node], "graph", numbers[:1], numbers[1:])
    opsets = [helper.make_opsetid("", 20)]
    model: onnx.ModelProto = helper.make_model(whole, opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize("threads", [1, 3])
def test_all_are_opened(threads: int, tmp_path: Path) -> None:
    contents = {tmp_path / f"{name}.onnx": graph(name) for name in ("Neg", "Abs", "Floor")}
    graphs, done = open_graphs(contents, threads, lambda: "done meanwhile")
    assert done == "done meanwhile"
    assert [*graphs] == [*contents]
    found = {path.stem: one({"x": np.float32([-1.5, 2])})["y"] for path, one in graphs.items()}
    assert {name: y.tolist() for name, y in found.items()} == {
        "Neg": [1.5, -2],
        "Abs": [1.5, 2],
        "Floor": [-2, 2],
    }


def test_an_error_tells_the_file(tmp_path: Path) -> None:
    contents = {tmp_path / "good.onnx": graph("Neg"), tmp_path / "bad.onnx": graph("Nothing")}
    with pytest.raises(IntegrityError, match=r"bad\.onnx is no graph for onnxruntime"):
        open_graphs(contents, 2, lambda: None)


def test_an_error_meanwhile(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        open_graphs({tmp_path / "good.onnx": graph("Neg")}, 2, fail)
