"""The kernels of onnxruntime's CUDA provider, and the types of the values in a graph.

`data/cuda_kernels.json` has the operators that our graphs use. It is what onnxruntime-gpu itself
says where all its providers can be loaded, by the functions that make its page OperatorKernels.md:

    python -m tests.support.cuda_kernels Add MatMul com.microsoft:MatMulNBits ...
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

DATA = Path(__file__).parent / "data" / "cuda_kernels.json"
_KINDS = {kind: f"tensor({name})" for kind, name in {
    onnx.TensorProto.FLOAT: "float",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.BOOL: "bool",
}.items()}  # fmt: skip
_LIFTED = {"Constant"}  # which onnxruntime makes initializers


@dataclass(frozen=True)
class Used:
    """A node of a graph: its operator, and the type that each of the operator's parameters has."""

    name: str
    domain: str
    operator: str
    since: int
    types: Mapping[str, str]


def table() -> dict[str, Any]:
    """Return the committed table."""
    read: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return read


def has_kernel(used: Used, kernels: list[list[Any]]) -> bool:
    """Return whether a kernel takes a node's types, at the version of its operator."""
    return any(
        (domain, operator) == (used.domain, used.operator)
        and first <= used.since <= last
        and all(used.types[name] in kinds for name, kinds in types.items() if name in used.types)
        for domain, operator, (first, last), types in kernels
    )


def used_in(model: onnx.ModelProto, parameters: Mapping[str, Any]) -> Iterator[Used]:
    """Yield all nodes, those of branches too, but for constants."""
    opsets = {each.domain: each.version for each in model.opset_import}
    yield from _used_in(model.graph, {}, opsets, parameters)


def _used_in(
    graph: onnx.GraphProto,
    outer: dict[str, str],
    opsets: Mapping[str, int],
    parameters: Mapping[str, Any],
) -> Iterator[Used]:
    types = outer
    types |= {v.name: _KINDS[v.type.tensor_type.elem_type] for v in graph.input}
    types |= {each.name: _KINDS[each.data_type] for each in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _used_in(attribute.g, types, opsets, parameters)
        since, inputs, outputs, bound = _parameters(node, opsets, parameters)
        _bind(node.input, inputs, types, bound)
        _name_outputs(node, outputs, types, bound)
        if node.op_type not in _LIFTED:
            yield Used(node.name, node.domain, node.op_type, since, bound)


def _parameters(
    node: onnx.NodeProto, opsets: Mapping[str, int], parameters: Mapping[str, Any]
) -> tuple[int, list[str], list[str], dict[str, str]]:
    """Return an operator's version, the types of its inputs and outputs, and what is named so.

    A name stands for any of several types; those that stand for one are returned with it.
    """
    if node.domain:
        told = parameters[f"{node.domain}:{node.op_type}"]
        return 1, told["inputs"], told["outputs"], {}
    schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
    inputs, outputs = ([each.type_str for each in side] for side in (schema.inputs, schema.outputs))
    named = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    single = {name: kinds[0] for name, kinds in named.items() if len(kinds) == 1}
    return schema.since_version, inputs, outputs, single


def _bind(names: Any, formal: list[str], types: Mapping[str, str], bound: dict[str, str]) -> None:
    """Note the type of each named parameter; the last one may be repeated."""
    for place, name in enumerate(names):
        if not name:
            continue
        parameter = formal[min(place, len(formal) - 1)]
        if parameter.startswith("tensor("):
            assert types[name] == parameter, name
            continue
        assert bound.setdefault(parameter, types[name]) == types[name], (name, parameter)


def _name_outputs(
    node: onnx.NodeProto, formal: list[str], types: dict[str, str], bound: dict[str, str]
) -> None:
    for place, name in enumerate(node.output):
        if not name:
            continue
        parameter = formal[min(place, len(formal) - 1)]
        told = _told(node, place, types)
        if parameter.startswith("tensor("):
            told = parameter
        elif told is None:
            told = bound[parameter]
        types[name] = told
        if node.op_type != "If":  # whose outputs may differ from each other
            bound.setdefault(parameter, told)


def _told(node: onnx.NodeProto, place: int, types: Mapping[str, str]) -> str | None:
    """Return an output's type where the node's attributes say it."""
    told = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Cast":
        return _KINDS[told["to"]]
    if node.op_type == "If":
        return types[told["then_branch"].output[place].name]
    if node.op_type in ("Constant", "ConstantOfShape"):
        if "value" in told:
            return _KINDS[told["value"].data_type]
        (name,) = told or ("value_float",)
        return "tensor(float)" if "float" in name else "tensor(int64)"
    return None


def main(operators: list[str]) -> None:
    """Write the table of some operators, `DOMAIN:NAME` or `NAME`, from onnxruntime's own lists."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    wanted = {tuple(each.split(":")) if ":" in each else ("", each) for each in operators}
    kernels = {
        json.dumps(
            [
                each.domain,
                each.op_name,
                list(each.version_range),
                {name: sorted(kinds) for name, kinds in sorted(each.type_constraints.items())},
            ]
        )
        for each in state.get_all_opkernel_def()
        if each.provider == "CUDAExecutionProvider" and (each.domain, each.op_name) in wanted
    }
    schemas = {
        f"{each.domain}:{each.name}": {
            "inputs": [value.typeStr for value in each.inputs],
            "outputs": [value.typeStr for value in each.outputs],
        }
        for each in state.get_all_operator_schema()
        if each.domain and (each.domain, each.name) in wanted
    }
    head = {
        "source": f"onnxruntime-gpu {onnxruntime.__version__}: get_all_opkernel_def and "
        "get_all_operator_schema of its module onnxruntime.capi.onnxruntime_pybind11_state",
        "parameters": schemas,
    }
    lines = ",\n  ".join(sorted(kernels))
    text = f'{json.dumps(head, indent=1, sort_keys=True)[:-2]},\n "kernels": [\n  {lines}\n ]\n}}\n'
    DATA.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
