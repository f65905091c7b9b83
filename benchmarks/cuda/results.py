"""The figures of benchmarks/cuda/check.py: kept in one JSON file, told as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = {
    "aoti": "aoti, float16",
    "aoti int8": "aoti, int8 weights",
    "onnx-fp16": "onnx-fp16",
    "eager": "transformers, eager, float16",
    "compiled": "transformers, static cache, torch.compile with CUDA graphs",
    "autocast": "transformers, float16 autocast, torch.compile",
    "bitsandbytes": "transformers, int8 of bitsandbytes",
}
_HEAD = ["", "build or warm-up", "ready", "one window", "a token", "windows/s", "memory"]


def save(results: dict[str, Any], path: Path) -> None:
    """Write the figures so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def lines(results: dict[str, Any]) -> Iterator[str]:
    """Yield a table for each shape, under where it was measured."""
    about = results["about"]
    card = about.get("card", "no card: these are no figures of CUDA")
    yield f"{card}; PyTorch {about['torch']}, transformers {about['transformers']}"
    for shape in dict.fromkeys(row["shape"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["shape"] == shape]
        yield f"\n{shape}, {results['tokens']} greedy tokens of a window of 30 s\n"
        yield _line(_HEAD)
        yield _line(["---", *["---:"] * (len(_HEAD) - 1)])
        texts = {row["text"] for row in rows if row["system"] == "eager" and "text" in row}
        yield from (_line([*cells(row, texts)]) for row in rows)


def cells(row: dict[str, Any], texts: set[str]) -> Iterator[str]:
    """Yield the cells of a row.

    Args:
        row: The figures of a system.
        texts: The text that all of a shape should say, if it is known.
    """
    differs = texts and "text" in row and row["text"] not in texts
    yield NAMES[row["system"]] + (" (says another text)" if differs else "")
    if "window_s" not in row:
        yield from (f"cannot: {row.get('failed', 'no figures')}", *[""] * (len(_HEAD) - 2))
        return
    yield f"{row.get('build_s', row.get('warm_up_s', 0)):.0f} s"
    yield f"{row.get('first_text_s', row['ready_s']):.1f} s"
    yield f"{1e3 * row['window_s']:.0f} ms"
    yield f"{1e3 * token_s(row):.2f} ms" if "first_token_s" in row else ""
    yield ", ".join(f"{rate:.0f} of {n}" for n, rate in row.get("batch", {}).items())
    yield f"{row['memory_bytes'] / 1e9:.1f} GB"


def token_s(row: dict[str, Any], tokens: int = 64) -> float:
    """Return the seconds of a token after the first, the host's share included."""
    return float(row["window_s"] - row["first_token_s"]) / tokens


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
