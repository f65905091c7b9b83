"""The rounding of simulated artifacts is that of the runtimes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration

from exporter.checkpoint.checkpoint import open_checkpoint
from exporter.families import FAMILIES
from exporter.quantization.plan import QuantizationPlan
from exporter.quantization.schemes import SCHEMES
from exporter.quantization.schemes.base import IntegerScheme
from exporter.quantization.schemes.dynamic_int8 import Scheme as DynamicInt8
from exporter.quantization.schemes.weight_only import WeightOnly
from exporter.quantization.simulate import Rounding, simulate
from exporter.quantization.weights import Weights
from exporter.targets.aoti import inspection as aoti
from exporter.targets.aoti.modules.dynamic_int8 import int8_linear
from exporter.targets.aoti.modules.weight_only import grouped_linear
from exporter.targets.onnx import inspection as onnx
from exporter.targets.onnx.modules.weight_only import GroupedMatMul
from exporter.targets.pytorch import inspection as pytorch
from exporter.targets.pytorch.modules.dynamic_int8 import Int8Linear
from exporter.targets.pytorch.modules.weight_only import GroupedLinear

STATES = {
    "usual": lambda random: torch.randn(1, 7, 24, generator=random),
    "all positive": lambda random: torch.rand(1, 7, 24, generator=random) + 3,
    "all negative": lambda random: -torch.rand(1, 7, 24, generator=random) - 1e-3,
    "tiny": lambda random: 1e-7 * torch.randn(1, 7, 24, generator=random),
    "huge": lambda random: 1e6 * torch.randn(1, 7, 24, generator=random),
    "zeros": lambda random: torch.zeros(1, 7, 24),
}


@pytest.fixture(params=STATES)
def states(request: pytest.FixtureRequest) -> Tensor:
    return STATES[request.param](torch.Generator().manual_seed(1))


@pytest.fixture
def weight() -> Tensor:
    codes = torch.randint(-127, 128, (16, 24), generator=torch.Generator().manual_seed(2))
    return codes.to(torch.int8)


def alike(found: Tensor, expected: Tensor) -> None:
    """Products of the same codes: they differ by the rounding of float32."""
    scale = float(expected.abs().max()) or 1.0
    assert float((found - expected).abs().max()) <= 2e-6 * scale


def test_onnxruntime_rounds_so(states: Tensor, weight: Tensor) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "step", "zero"]),
        helper.make_node("MatMulInteger", ["codes", "w", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "step"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    w = helper.make_tensor("w", TensorProto.INT8, (24, 16), weight.t().contiguous().numpy())
    graph = helper.make_graph(nodes, "product", [x], [y], [w])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (product,) = session.run(None, {"x": states.numpy()})
    alike(rounded(onnx, states) @ weight.float().t(), torch.from_numpy(product))


def test_torch_rounds_so(states: Tensor, weight: Tensor) -> None:
    linear = Int8Linear(
        nn.Linear(24, 16), DynamicInt8(), {"weight": weight, "scale": torch.ones(16)}, None
    )
    alike(rounded(pytorch, states) @ weight.float().t(), linear(states))


def test_our_kernels_round_so(states: Tensor, weight: Tensor) -> None:
    product = int8_linear(states, weight, torch.ones(16), None, False)
    alike(rounded(aoti, states) @ weight.float().t(), product)


GROUPED = [
    (name, size, symmetric)
    for name in ("weight-int4", "weight-int8")
    for size in (32, 64, 128)
    for symmetric in (True, False)
]


@pytest.fixture(params=GROUPED, ids=str)
def grouped(request: pytest.FixtureRequest) -> tuple[WeightOnly, dict[str, Tensor]]:
    """A scheme with weights in groups, and the numbers of a weight, whose last group is short."""
    name, size, symmetric = request.param
    made = SCHEMES[name].Scheme.model_validate({"group_size": size, "symmetric": symmetric})
    assert isinstance(made, WeightOnly)
    weight = torch.randn(19, 2 * size + 18, generator=torch.Generator().manual_seed(4))
    return made, made.quantize(lambda: [weight], tuple(weight.shape))


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_onnxruntime_rounds_groups_so(
    grouped: tuple[WeightOnly, dict[str, Tensor]], rows: int
) -> None:
    """And at the other accuracy level, of the graph for inspection, it does not round."""
    scheme, numbers = grouped
    weight = scheme.dequantize(numbers)
    node = GroupedMatMul(nn.Linear(weight.shape[1], 19), scheme, torch.int8)
    codes = node.stored("weight", numbers["weight"])
    given = {"w": codes, "s": numbers["scale"]}
    given |= {"z": numbers["zero_point"]} if "zero_point" in numbers else {}
    attributes = {"bits": scheme.BITS, "block_size": scheme.group_size, "accuracy_level": 4}
    product = helper.make_node(
        "MatMulNBits",
        ["x", *given],
        ["y"],
        domain="com.microsoft",
        K=weight.shape[1],
        N=19,
        **attributes,
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    constants = [numpy_helper.from_array(t.contiguous().numpy(), n) for n, t in given.items()]
    graph = helper.make_graph([product], "product", [x], [y], constants)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    states = torch.randn(1, rows, weight.shape[1], generator=torch.Generator().manual_seed(rows))
    states[..., 5] *= 30
    wanted = {"rounded": rounded(onnx, states, scheme), "float": states}
    graphs = {"rounded": model.SerializeToString()}
    graphs["float"] = onnx._in_float(graphs["rounded"], {})
    for name, content in graphs.items():
        session = onnxruntime.InferenceSession(content)
        (product_of_it,) = session.run(None, {"x": states.numpy()})
        alike(wanted[name] @ weight.t(), torch.from_numpy(product_of_it))
    assert not torch.allclose(wanted["rounded"], states, rtol=1e-4)


def test_torch_multiplies_groups_in_bfloat16(grouped: tuple[WeightOnly, dict[str, Tensor]]) -> None:
    """Inputs and products round to its 8 bits; weights, zero points and the bias do not."""
    scheme, numbers = grouped
    weight = scheme.dequantize(numbers)
    bias = torch.randn(19, generator=torch.Generator().manual_seed(5))
    linear = GroupedLinear(nn.Linear(weight.shape[1], 19), scheme, numbers, bias)
    rounding = pytorch.rounding(None, scheme, graph="decoder", once=False, narrow=True)  # type: ignore[arg-type]
    assert rounding.products is not None
    for shape in ((1, 1), (2, 5)):
        states = torch.randn(*shape, weight.shape[1], generator=torch.Generator().manual_seed(6))
        inputs = rounded(pytorch, states, scheme)
        assert torch.equal(inputs, states.bfloat16().float())
        product = inputs @ weight.t()
        found = linear(states) - bias
        # A weight's zero point, and the low half of its 8 bits, are products of their own.
        assert (found - product).abs().max() <= 2**-8 * product.abs().max()
        if scheme.symmetric and scheme.BITS == 4:
            near = (found - rounding.products(product)).abs() <= 1e-5 * product.abs().max()
            assert near.float().mean() > 0.97


def test_our_kernels_round_groups_so(grouped: tuple[WeightOnly, dict[str, Tensor]]) -> None:
    scheme, numbers = grouped
    weight = scheme.dequantize(numbers)
    states = torch.randn(1, 7, weight.shape[1], generator=torch.Generator().manual_seed(7))
    arguments = numbers["weight"], numbers["scale"], numbers.get("zero_point"), None
    product = grouped_linear(states, *arguments, scheme.BITS, scheme.group_size, False)
    alike(rounded(aoti, states, scheme) @ weight.t(), product)


def rounded(target: Any, states: Tensor, scheme: IntegerScheme | None = None) -> Tensor:
    manifest = SimpleNamespace(options={})
    rounding: Rounding = target.rounding(
        manifest, scheme or DynamicInt8(), graph="decoder", once=False, narrow=True
    )
    assert rounding.inputs is not None
    return rounding.inputs(states)


def test_an_unquantized_plan_simulates_the_original(tiny_whisper: Path) -> None:
    """Nothing is rounded, so nothing changes; with int8, each call's inputs round together."""
    checkpoint, family = open_checkpoint(str(tiny_whisper)), FAMILIES["whisper"]
    features = torch.randn(1, 80, 400, generator=torch.Generator().manual_seed(3))
    tokens = torch.tensor([[5, 9, 30, 31, 32, 33]])
    found = {}
    for bits, calls in ((0, [6]), (8, [6]), (8, [2, 1, 1, 1, 1])):
        model = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).eval()
        before = family.forcing.forced(model, features, tokens, calls).logits
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        plan = QuantizationPlan(dict.fromkeys(names, DynamicInt8()) if bits else {})
        weights = Weights(checkpoint, plan, family.TIED)
        simulation = simulate(
            model,
            weights,
            plan,
            family.forcing,
            lambda _, scheme: Rounding(onnx._unsigned if scheme else None),
        )
        simulation.calls = calls
        after = family.forcing.forced(model, features, tokens, calls).logits
        found[bits, len(calls)] = after.numpy()
        if not bits:
            assert np.allclose(before.numpy(), after.numpy(), atol=1e-5)
        else:
            assert not np.allclose(before.numpy(), after.numpy(), atol=1e-5)
    assert not np.allclose(found[8, 1], found[8, 5], atol=1e-6)
