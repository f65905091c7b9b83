"""Our own kernels, compiled for every level of CPU that this machine has, against their meaning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exporter.families import attention
from exporter.families.graph import Graph
from exporter.system import hardware
from exporter.targets.aoti.compiler import compile_graph
from exporter.targets.aoti.modules import dynamic_int8 as linear
from exporter.targets.aoti.modules import fuse_gelu
from exporter.targets.aoti.modules.weight_only import grouped_linear
from exporter.targets.aoti.package import Package, read_spec

LEVELS = {
    "x86-64-v3": ("x86-64-v3", ()),
    "x86-64-v4": ("x86-64-v4", ()),
    "with VNNI": ("x86-64-v4", ("avx512_vnni",)),
    "with VNNI and bf16": ("x86-64-v4", ("avx512_vnni", "avx512_bf16")),
}


# Odd widths and numbers of columns among them, and fewer columns than a tile has.
SHAPES = ((64, 101), (200, 64), (36, 13), (70, 3), (8, 1))


class Linears(nn.Module):
    """One linear module for each of SHAPES, with and without bias and GELU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for index, (width, columns) in enumerate(SHAPES):
            codes = torch.randint(-127, 128, (columns, width), dtype=torch.int8)
            parts = {"weight": codes, "scale": torch.rand(columns) / 100}
            for name, part in {**parts, "bias": torch.randn(columns)}.items():
                parameter = nn.Parameter(part, requires_grad=False)
                self.register_parameter(f"{name}{index}", parameter)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(self.named_parameters())
        results = []
        for index, states in enumerate(inputs):
            weight, scale = given[f"weight{index}"], given[f"scale{index}"]
            plain = linear.int8_linear(states, weight, scale, None, False)
            biased = linear.int8_linear(states, weight, scale, given[f"bias{index}"], False)
            results += [plain, nn.functional.gelu(biased)]
        return tuple(results)


# Inputs, outputs, bits, inputs of a group, and whether there are zero points: last groups that are
# shorter, codes that end within a register or a byte, and numbers of columns that no tile divides.
GROUPED = (
    (64, 101, 4, 32, False),
    (200, 64, 4, 64, True),
    (333, 11, 4, 128, False),
    (45, 13, 4, 32, True),
    (384, 18, 8, 128, False),
    (200, 33, 8, 32, True),
    (77, 10, 8, 64, False),
)


class Grouped(nn.Module):
    """One linear module with weights in groups for each of GROUPED, with and without a bias."""

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(0)
        for index, (width, columns, bits, group, zeros) in enumerate(GROUPED):
            groups = -(-width // group)

            def codes(count: int, columns: int = columns, bits: int = bits) -> Tensor:
                shape = (columns, -(-count * bits // 8))
                return torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)

            scale = (torch.rand((columns, groups), generator=source) - 0.5) / 50
            parts = {"weight": codes(width), "scale": scale, "bias": torch.randn(columns)}
            for name, part in {**parts, **({"zeros": codes(groups)} if zeros else {})}.items():
                parameter = nn.Parameter(part, requires_grad=False)
                self.register_parameter(f"{name}{index}", parameter)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(self.named_parameters())
        results = []
        for index, (states, case) in enumerate(zip(inputs, GROUPED, strict=True)):
            own = [given.get(f"{name}{index}") for name in ("weight", "scale", "zeros", "bias")]
            weight, scale, zeros, bias = own
            assert weight is not None
            assert scale is not None
            bits, group = case[2:4]
            plain = grouped_linear(states, weight, scale, zeros, None, bits, group, False)
            biased = grouped_linear(states, weight, scale, zeros, bias, bits, group, False)
            results += [plain, nn.functional.gelu(biased)]
        return tuple(results)


class Attentions(nn.Module):
    """The three kinds of attention side by side, and what writes the cache of one of them."""

    heads = 2

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        query, window, cross, ancestors, position, key_cache, value_cache = inputs
        everything = attention.attention(window, window * 0.5, window.flip(1), self.heads)
        step = attention.step_attention(
            query, query * 0.5, query + 1, key_cache, value_cache, ancestors, position
        )
        kept = window.new_empty(windows_cache(window, cross), dtype=torch.uint8)
        for index in range(kept.shape[1]):
            attention.keep_window(window * 3**index, kept, index)
        return everything, step, attention.window_attention(query, cross, 1), kept


def windows_cache(window: Tensor, cross: Tensor) -> tuple[int, ...]:
    """The shape of a cache of `window` [windows, length, width] that is otherwise like `cross`."""
    return (window.shape[0], *cross.shape[1:3], window.shape[1], cross.shape[4])


def lacking(name: str) -> set[str]:
    """The features of a level that this CPU has not."""
    march, extensions = LEVELS[name]
    return set(hardware.level_features(march) | set(extensions)) - hardware.describe().features


def settings(name: str) -> dict[str, Any]:
    return dict(zip(("march", "extensions"), LEVELS[name], strict=True))


# `test_attention_of_other_widths` runs the highest level that this CPU has.
_SAMPLE = ("x86-64-v3", "with VNNI")


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in _SAMPLE else pytest.mark.sweep) for name in LEVELS
    ]
)
def level(request: pytest.FixtureRequest) -> dict[str, Any]:
    name = str(request.param)
    if missing := lacking(name):
        pytest.skip(f"this CPU has no {', '.join(sorted(missing))}")
    return settings(name)


def compiled(module: nn.Module, graph: Graph, folder: Path, level: dict[str, Any]) -> Package:
    path = folder / f"{graph.name}.pt2"
    names = {name: name for name, _ in module.named_parameters()}
    compile_graph(graph, module, names, path, threads=None, **level)
    return Package(path, read_spec(path), {n: p.data for n, p in module.named_parameters()})


def test_linear(level: dict[str, Any], tmp_path: Path) -> None:
    module = Linears()
    names = [f"states{index}" for index in range(len(SHAPES))]
    widths = [width for width, _ in SHAPES]
    graph = Graph(
        "linears",
        module,
        {n: torch.empty((3, width), device="meta") for n, width in zip(names, widths, strict=True)},
        {name: {0: "rows"} for name in names},
        {f"{n}{i}": ("rows", c) for i, (_, c) in enumerate(SHAPES) for n in ("plain", "active")},
    )
    run = compiled(module, graph, tmp_path, level)
    scales = [dict(module.named_parameters())[f"scale{i // 2}"] for i in range(2 * len(SHAPES))]
    for rows in (1, 2, 3, 4, 5, 6, 11, 63, 64, 65, 133, 395):
        loudness = torch.logspace(-3, 3, rows)[:, None]
        inputs = {n: torch.randn(rows, w) * loudness for n, w in zip(names, widths, strict=True)}
        found, wanted = run(inputs).values(), module(*inputs.values())
        peaks = [t.abs().amax(1, keepdim=True) for t in inputs.values() for _ in range(2)]
        for result, expected, scale, peak in zip(found, wanted, scales, peaks, strict=True):
            # A code that rounds the other way moves a sum by one weight times its scales.
            slack = 1.01 * (peak / 127 * scale * 127).clamp_min(1e-6)
            assert ((result - expected).abs() <= slack + 1e-5 * expected.abs()).all()
            close = (result - expected).abs() <= 1e-4 * expected.abs() + 1e-5
            assert close.float().mean() > 0.9
    silent = run({n: torch.zeros(2, width) for n, width in zip(names, widths, strict=True)})
    assert not silent["plain0"].any()


def test_a_linear_module_applies_the_gelu_behind_it() -> None:
    module = nn.Sequential(linear.Int8Linear(nn.Linear(8, 4)), nn.GELU()).to_empty(device="cpu")
    program = torch.export.export(module, (torch.zeros(3, 8),), strict=False)
    fuse_gelu(program.graph)
    operators = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert operators == [torch.ops.exporter.int8_linear.default]


def test_linear_with_weights_in_groups(level: dict[str, Any], tmp_path: Path) -> None:
    module, names = Grouped(), [f"states{index}" for index in range(len(GROUPED))]
    widths = [case[0] for case in GROUPED]
    outputs = ((f"{n}{i}", case[1]) for i, case in enumerate(GROUPED) for n in ("plain", "active"))
    graph = Graph(
        "grouped",
        module,
        {n: torch.empty((3, width), device="meta") for n, width in zip(names, widths, strict=True)},
        {name: {0: "rows"} for name in names},
        {name: ("rows", columns) for name, columns in outputs},
    )
    run = compiled(module, graph, tmp_path, level)
    # The largest weight of each case: a code that rounds the other way moves a sum by that.
    largest = [
        dict(module.named_parameters())[f"scale{i}"].abs().max() * 2 ** case[2]
        for i, case in enumerate(GROUPED)
        for _ in range(2)
    ]
    for rows in (1, 2, 3, 4, 5, 9, 67):
        source = torch.Generator().manual_seed(rows)
        loudness = torch.logspace(-3, 3, rows)[:, None]
        inputs = {
            n: torch.randn((rows, w), generator=source) * loudness
            for n, w in zip(names, widths, strict=True)
        }
        found, wanted = run(inputs).values(), module(*inputs.values())
        peaks = [t.abs().amax(1, keepdim=True) for t in inputs.values() for _ in range(2)]
        for result, expected, weight, peak in zip(found, wanted, largest, peaks, strict=True):
            slack = 1.01 * peak / 127 * weight + 1e-5 * expected.abs() + 1e-6
            assert ((result - expected).abs() <= slack).all()
            close = (result - expected).abs() <= 1e-4 * expected.abs() + 1e-4 * peak * weight
            assert close.float().mean() > 0.98
    silent = run({n: torch.zeros(2, width) for n, width in zip(names, widths, strict=True)})
    assert not silent["plain0"].any()


def test_attention(level: dict[str, Any], tmp_path: Path) -> None:
    check_attention(level, tmp_path, 64)


def other_widths(usual: int, *others: int) -> pytest.MarkDecorator:
    sweep = [pytest.param(width, marks=pytest.mark.sweep) for width in others]
    return pytest.mark.parametrize("head_dim", [usual, *sweep])


@pytest.mark.slow
@other_widths(24, 8, 16, 32, 40, 72, 120, 128, 256)
def test_attention_of_other_widths(tmp_path: Path, head_dim: int) -> None:
    highest = [name for name in LEVELS if not lacking(name)][-1]
    check_attention(settings(highest), tmp_path, head_dim)


class Everything(nn.Module):
    """Attention of every position to every other, by itself."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor]:
        (states,) = inputs
        return (attention.attention(states, states * 0.5, states.flip(1), Attentions.heads),)


@pytest.mark.slow
@other_widths(80, 24, 48, 96, 120, 256)
def test_an_encoder_attends_in_the_widths_of_other_models(tmp_path: Path, head_dim: int) -> None:
    """wav2vec 2.0 of a thousand million weights has heads of 80 numbers."""
    torch.manual_seed(0)
    highest = [name for name in LEVELS if not lacking(name)][-1]
    module, width = Everything(), Attentions.heads * head_dim
    example = {"states": torch.empty((2, 131, width), device="meta")}
    dynamic = {"states": {0: "clips", 1: "frames"}}
    outputs = {"attended": ("clips", "frames", width)}
    graph = Graph("everything", module, example, dynamic, outputs)
    run = compiled(module, graph, tmp_path, settings(highest))
    for clips, frames in ((1, 7), (2, 131), (1, 260)):
        states = torch.randn(clips, frames, width) / 2
        (wanted,) = module(states)
        assert (run({"states": states})["attended"] - wanted).abs().max() < 0.02


def check_attention(level: dict[str, Any], tmp_path: Path, head_dim: int) -> None:
    torch.manual_seed(0)
    module, heads, places, source, length = Attentions(), Attentions.heads, 24, 75, 131
    width = heads * head_dim

    def inputs_of(windows: int, beams: int, tokens: int, start: int) -> dict[str, Tensor]:
        rows = windows * beams
        earlier = torch.randint(0, rows, (rows, places), dtype=torch.int32)
        cache = (rows, heads, places, head_dim)
        return {
            "query": torch.randn(rows, tokens, width) / 3,
            "window": torch.randn(windows, length, width) / 2,
            "cross": attention.packed(torch.randn(windows, 4, heads, source, head_dim)),
            "ancestors": earlier,
            "position": torch.tensor([start]),
            "key_cache": torch.randn(cache).half(),
            "value_cache": torch.randn(cache).half(),
        }

    examples = {name: t.to("meta") for name, t in inputs_of(2, 2, 3, 4).items()}
    by_rows = {name: {0: "rows"} for name in ("ancestors", "key_cache", "value_cache")}
    by_windows = {name: {0: "windows"} for name in ("window", "cross")}
    dynamic = {**by_rows, **by_windows, "query": {0: "rows", 1: "tokens"}}
    step = ("rows", "tokens", width)
    graph = Graph(
        "attentions",
        module,
        examples,
        dynamic,
        {
            "all": ("windows", length, width),
            "step": step,
            "cross": step,
            "kept": ("windows", 4, heads, length, head_dim + attention.SCALE_BYTES),
        },
        mutated=("key_cache", "value_cache"),
    )
    run = compiled(module, graph, tmp_path, level)
    for shape in ((1, 1, 1, 0), (1, 1, 4, 0), (1, 5, 1, 7), (3, 2, 2, 9), (2, 1, 1, places - 1)):
        inputs = inputs_of(*shape)
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        found, wanted = run(inputs), module(*own.values())
        for name, expected, error in zip(found, wanted, (2e-2, 2e-3, 2e-3, 0), strict=True):
            torch.testing.assert_close(found[name], expected, rtol=error, atol=error)
        for name in ("key_cache", "value_cache"):
            assert torch.equal(inputs[name], own[name])


def test_positions_and_rows_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    """A kernel reads memory by these numbers: a wrong one must not reach it."""
    module = Attentions()
    inputs = {
        "query": torch.randn(1, 2, 64),
        "window": torch.randn(1, 8, 64),
        "cross": attention.packed(torch.randn(1, 4, 2, 8, 32)),
        "ancestors": torch.zeros(1, 6, dtype=torch.int32),
        "position": torch.tensor([2]),
        "key_cache": torch.zeros(1, 2, 6, 32).half(),
        "value_cache": torch.zeros(1, 2, 6, 32).half(),
    }
    examples = {name: tensor.to("meta") for name, tensor in inputs.items()}
    outputs = {"all": (1, 8, 64), "step": (1, 2, 64), "cross": (1, 2, 64), "kept": (1, 4, 2, 8, 36)}
    caches = ("key_cache", "value_cache")
    graph = Graph("attentions", module, examples, {}, outputs, mutated=caches)
    run = compiled(module, graph, tmp_path, {"march": "x86-64-v3", "extensions": ()})
    run(inputs)
    with pytest.raises(RuntimeError):
        run({**inputs, "position": torch.tensor([5])})
    with pytest.raises(RuntimeError):
        run({**inputs, "position": torch.tensor([-1])})
    with pytest.raises(RuntimeError):
        run({**inputs, "ancestors": torch.full((1, 6), 1, dtype=torch.int32)})


def test_packed_numbers_keep_their_scale() -> None:
    states = torch.randn(3, 5, 16) * torch.logspace(-30, 30, 5)[:, None]
    kept = attention.unpacked(attention.packed(states))
    assert ((kept - states).abs() <= 0.51 * states.abs().amax(-1, keepdim=True) / 127).all()
    nothing = attention.unpacked(attention.packed(torch.zeros(2, 16)))
    assert torch.equal(nothing, torch.zeros(2, 16))
