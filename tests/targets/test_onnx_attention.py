"""onnxruntime's attention nodes compute what our operators mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from exporter.families.attention import (
    attention,
    quantized_channels,
    shared_attention,
    shared_cross_attention,
)
from exporter.families.graph import WRITTEN, Graph
from exporter.targets.onnx.graphs import trace
from exporter.targets.onnx.session import Session, open_session

HEADS, DIM, SOURCE, POSITIONS = 3, 8, 11, 9
WIDTH = HEADS * DIM


def has_tokens(tensor: Tensor) -> bool:
    return tensor.dim() == 3 and tensor.shape[1] > 1


class Called(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.function(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def opened(
    folder: Path, function: Callable[..., Any], inputs: dict[str, Tensor], outputs: list[str]
) -> Session:
    """The node of an operator, traced with batch and length free, in a session."""
    module = Called(function)
    with torch.device("meta"):
        given = {name: torch.empty_like(tensor) for name, tensor in inputs.items()}
    axes = {
        name: {0: f"{name}_rows", **({1: f"{name}_tokens"} if has_tokens(tensor) else {})}
        for name, tensor in given.items()
    }
    shapes = {
        name: tuple(t.shape) for name, t in zip(outputs, module(*inputs.values()), strict=True)
    }
    free = {name: tuple(f"{name}_{i}" for i in range(len(s))) for name, s in shapes.items()}
    model = trace._trace(Graph("attention", module, given, axes, free))
    ir.save(model, folder / "attention.onnx")
    path = folder / "attention.onnx"
    return open_session(path, path.read_bytes(), 1)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def codes(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("cache", [False, True], ids=["alike", "a cache"])
def test_attention(tmp_path: Path, rows: int, tokens: int, cache: bool) -> None:
    query = draw(2, 4, WIDTH)
    source = draw(2, HEADS, SOURCE, DIM) if cache else draw(2, SOURCE, WIDTH)
    inputs = {"query": query, "key": source, "value": source.flip(2)}
    session = opened(tmp_path, lambda *qkv: attention(*qkv, HEADS), inputs, ["attended"])
    inputs = {name: tensor[:rows] for name, tensor in inputs.items()}
    inputs["query"] = draw(rows, tokens, WIDTH)
    expected = attention(*inputs.values(), HEADS)
    torch.testing.assert_close(session(inputs)["attended"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 4), (3, 1)])
def test_shared_attention_writes_in_place(tmp_path: Path, rows: int, tokens: int) -> None:
    """At the beginning, in the middle and at the end of the caches, and nowhere else."""

    def inputs(rows: int, tokens: int, last: int) -> dict[str, Tensor]:
        new = [draw(rows, tokens, WIDTH + n)[..., :WIDTH].contiguous() for n in range(3)]
        caches = [draw(rows, HEADS, POSITIONS, DIM), draw(rows, HEADS, POSITIONS + 1, DIM)]
        caches[1] = caches[1][:, :, :POSITIONS].contiguous()
        for cache in caches:
            cache[:, :, last + 1 - tokens :] = torch.nan  # nobody reads what is not written
        named = zip(("query", "key", "value", "keys", "values"), (*new, *caches), strict=True)
        return {**dict(named), "last": torch.full((rows,), last, dtype=torch.int32)}

    written = [f"keys{WRITTEN}", f"values{WRITTEN}"]
    session = opened(tmp_path, shared_attention, inputs(2, 3, 6), ["attended", *written])
    for last in (tokens - 1, 5, POSITIONS - 1):
        given = inputs(rows, tokens, last)
        expected = shared_attention(*given.values())
        found = session(given)["attended"]
        for ours, wanted in zip((found, given["keys"], given["values"]), expected, strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4, equal_nan=True)
        assert found.isfinite().all()


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize(
    ("rows", "windows", "tokens"), [(1, 1, 1), (1, 1, 4), (5, 1, 1), (3, 3, 1)]
)
def test_shared_cross_attention(
    tmp_path: Path, rows: int, windows: int, tokens: int, narrow: bool
) -> None:
    """Rows of their own windows, several of one, and a prompt; the caches stay as they are."""

    def inputs(rows: int, windows: int, tokens: int) -> dict[str, Tensor]:
        caches = [(codes if narrow else draw)(windows, HEADS, SOURCE, DIM) for _ in range(2)]
        scales = {f"scale{n}": draw(windows, 1, WIDTH + n)[..., :WIDTH] / 127 for n in range(2)}
        return {
            "query": draw(rows, tokens, WIDTH),
            "key": caches[0],
            "value": caches[1].flip(2),
            "last": torch.full((windows,), SOURCE - 1, dtype=torch.int32),
            **{name: scale.abs().contiguous() for name, scale in scales.items() if narrow},
        }

    def attended(query: Tensor, key: Tensor, value: Tensor, last: Tensor, *scales: Tensor) -> Any:
        return shared_cross_attention(query, key, value, list(scales), last)

    written = [f"key{WRITTEN}", f"value{WRITTEN}"]
    session = opened(tmp_path, attended, inputs(2, 2, 3), ["attended", *written])
    given = inputs(rows, windows, tokens)
    expected = attended(*given.values())
    found = session(given)["attended"]
    for ours, wanted in zip((found, given["key"], given["value"]), expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)


def test_quantized_channels(tmp_path: Path) -> None:
    """Each window has its own scales; a channel that is nothing but zeros stays that."""
    states = draw(2, SOURCE, WIDTH) * torch.logspace(-3, 3, WIDTH)
    states[1] *= 5
    states[:, :, 1] = 0
    session = opened(tmp_path, quantized_channels, {"states": states}, ["codes", "scale"])
    found = session({"states": states})
    restored = found["codes"] * found["scale"]
    assert (restored - states).abs().le(found["scale"] * 0.5001).all()
    expected, scale = quantized_channels(states)
    torch.testing.assert_close(found["scale"], scale, atol=0, rtol=1e-5)
    assert (found["codes"].short() - expected.short()).abs().max() <= 1
    assert found["codes"].abs().amax(1).tolist() == [[127, 0, *[127] * (WIDTH - 2)]] * 2
