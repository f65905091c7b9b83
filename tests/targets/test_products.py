"""Products in integers, in every target and scheme, against the arithmetic that a plan means."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from exporter.families.graph import Graph
from exporter.quantization.convolution import unfold, unfolded_weight
from exporter.quantization.modules import replace_module, stored
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.static_int8 import Scheme as StaticInt8
from exporter.quantization.simulate import Rounding
from exporter.system.hardware import describe
from exporter.system.progress import silent
from exporter.targets import inspection_of
from exporter.targets.aoti import modules as aoti
from exporter.targets.aoti.compiler import compile_graph
from exporter.targets.aoti.package import Package, read_spec
from exporter.targets.onnx import modules as onnx_modules
from exporter.targets.onnx.graphs import external_data
from exporter.targets.onnx.graphs.trace import _trace
from exporter.targets.pytorch.modules import BY_SCHEME

BITS = 8 if describe().vnni else 7
SCHEMES: dict[str, IntegerScheme] = {
    "dynamic": DynamicInt8(bits=BITS),
    "dynamic, one scale": DynamicInt8(bits=BITS, per_channel=False),
    "static": StaticInt8(bits=BITS, low=-2.5, high=3.0),  # narrower than the inputs
}
CONVOLUTIONS = {  # kernel, stride, padding of 12 channels
    "as in a front end": (3, 2, 0),
    "without overlap": (2, 2, 0),
    "padded": (3, 1, 1),
    "padded, with strides": (3, 2, 1),
    "pointwise": (1, 1, 0),
    "with gaps": (2, 3, 0),
}
CHANNELS, OUTPUTS = 12, 20


class Products(nn.Module):
    """A linear module and each of CONVOLUTIONS, all of the same frames [batch, frames, in]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS, OUTPUTS)
        self.convs = nn.ModuleList(
            nn.Conv1d(CHANNELS, OUTPUTS, kernel, stride, padding, bias=index % 2 == 0)
            for index, (kernel, stride, padding) in enumerate(CONVOLUTIONS.values())
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        convs: list[Any] = list(self.convs)
        return tuple(
            product
            for states in inputs
            for product in (self.linear(states), *(conv.frames(states) for conv in convs))
        )


FRAMES = {"many": 301, "few": 9}  # for which aoti has different kernels
Run = Callable[[dict[str, Tensor]], list[Tensor]]


class Case:
    """The products with weights, the scheme's tensors of each, and the graph of them."""

    def __init__(self, scheme: IntegerScheme) -> None:
        torch.manual_seed(0)
        self.scheme, self.model = scheme, Products().requires_grad_(False)
        names = [n for n, m in self.model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d)]
        self.plan = QuantizationPlan(dict.fromkeys(names, scheme))
        self.tensors: dict[str, dict[str, Tensor]] = {}
        for name in names:
            weight = self.model.get_parameter(f"{name}.weight").clone()
            blocks: Any = weight.split(7)
            self.tensors[name] = scheme.quantize(lambda blocks=blocks: blocks, tuple(weight.shape))

    def read(self, name: str) -> Tensor:
        module, _, leaf = name.rpartition(".")
        return self.model.get_parameter(name) if leaf == "bias" else self.tensors[module][leaf]

    def replaced(self, replace: Callable[[nn.Module, QuantizationPlan], None]) -> nn.Module:
        with torch.device("meta"):
            model = Products().requires_grad_(False)
        replace(model, self.plan)
        return model

    def graph(self, model: nn.Module) -> Graph:
        inputs = {n: torch.empty((2, many, CHANNELS), device="meta") for n, many in FRAMES.items()}
        each = range(1 + len(CONVOLUTIONS))
        outputs = {f"{n}{i}": ("batch", f"{n}{i}", OUTPUTS) for n in FRAMES for i in each}
        return Graph("products", model, inputs, {n: {0: "batch"} for n in FRAMES}, outputs)

    def expected(self, rounding: Rounding, states: Tensor) -> list[Tensor]:
        """What the plan means: dequantized weights, and rounded rows."""
        round_inputs: Any = rounding.inputs
        products = []
        for name, module in self.model.named_modules():
            if name not in self.tensors:
                continue
            rows, weight = states, self.scheme.dequantize(self.tensors[name])
            frames = isinstance(module, nn.Conv1d) and not rounding.unfolded
            rows = round_inputs(rows) if frames else rows
            if isinstance(module, nn.Conv1d):
                ends = (0, 0, int(module.padding[0]), int(module.padding[0]))
                padded = nn.functional.pad(rows, ends)
                rows = unfold(padded, module.kernel_size[0], module.stride[0])
            rows = rows if frames else round_inputs(rows)
            products.append(nn.functional.linear(rows, unfolded_weight(weight), module.bias))
        return products


def in_onnx(case: Case, folder: Path) -> Run:
    def replace(model: nn.Module, plan: QuantizationPlan) -> None:
        onnx_modules.replace_modules(model, plan, {}, torch.int8)

    model = case.replaced(replace)
    path = folder / "products.onnx"
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    external_data.save(_trace(case.graph(model)), path, names)
    external_data.fill(path, lambda n: stored(model, n, case.read(n)), silent)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    session = onnxruntime.InferenceSession(str(path), options)

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        outputs = session.run(None, {name: states.numpy() for name, states in inputs.items()})
        return [torch.from_numpy(each) for each in outputs]

    return run


def in_torch(case: Case, _folder: Path) -> Run:
    model = case.replaced(lambda *_: None)
    for name, tensors in case.tensors.items():
        own = case.model.get_submodule(name)
        made = BY_SCHEME[case.scheme.name](own, case.scheme, tensors, getattr(own, "bias", None))
        replace_module(model, name, made)
    return lambda inputs: list(model(*inputs.values()))


def in_aoti(case: Case, folder: Path, *, narrow: bool = False) -> Run:
    def replace(model: nn.Module, plan: QuantizationPlan) -> None:
        aoti.replace_modules(model, plan, {}, onednn=False, vnni=True)

    model, path = case.replaced(replace), folder / "products.pt2"
    given = {}
    for name, parameter in list(model.named_parameters()):
        given[name] = stored(model, name, case.read(name)).expand(parameter.shape).contiguous()
        owner, _, leaf = name.rpartition(".")
        value = nn.Parameter(given[name], requires_grad=False)
        setattr(model.get_submodule(owner), leaf, value)
    vnni = describe().vnni and not narrow
    level: dict[str, Any] = {"march": "x86-64-v4" if vnni else "x86-64-v3"}
    level["extensions"] = ("avx512_vnni",) if vnni else ()
    names = {name: name for name in given}
    compile_graph(case.graph(model), model, names, path, threads=None, **level)
    package = Package(path, read_spec(path), given)
    return lambda inputs: list(package(inputs).values())


TARGETS = {
    "onnx-int8": in_onnx,
    "torch-int8": in_torch,
    "aoti": in_aoti,
    "aoti, without VNNI": partial(in_aoti, narrow=True),
}
MARKS = {"aoti": [pytest.mark.slow], "aoti, without VNNI": [pytest.mark.slow, pytest.mark.sweep]}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=MARKS.get(name, [])) for name in TARGETS]
)
def test_products_are_those_of_the_plan(target: str, name: str, tmp_path: Path) -> None:
    case = Case(SCHEMES[name])
    run, manifest = TARGETS[target](case, tmp_path), SimpleNamespace(options={})
    rounding = inspection_of(target.partition(",")[0]).rounding(
        manifest, case.scheme, graph="encoder", once=True, narrow=False
    )
    for batch in (1, 3):
        inputs = {n: torch.randn(batch, many, CHANNELS) + 0.3 for n, many in FRAMES.items()}
        expected = [each for states in inputs.values() for each in case.expected(rounding, states)]
        for product, wanted in zip(run(inputs), expected, strict=True):
            assert product.shape == wanted.shape
            close = (product - wanted).abs() <= 1e-5 * wanted.abs().max()
            # A code that rounds the other way moves a sum by a weight times a step.
            assert (product - wanted).abs().max() <= 0.02 * wanted.abs().max()
            assert close.float().mean() > 0.97
    if target == "onnx-int8":
        nodes = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph.node
        kinds = Counter(node.op_type for node in nodes)
        assert kinds["MatMulIntegerToFloat"] == 2 * (1 + len(CONVOLUTIONS)), "all are fused"
        assert not kinds.keys() & {"MatMul", "MatMulInteger", "Gemm", "Conv", "DequantizeLinear"}
        quantizing = kinds["QuantizeLinear"] + kinds["DynamicQuantizeLinear"]
        assert quantizing <= 4, "siblings share their input"
