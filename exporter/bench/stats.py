"""Percentiles, tokens per second and real-time factor of measured times."""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from exporter.bench.timing import GraphTime, Profile, Round

_PERCENTILES = (50, 90, 99)


def of_rounds(rounds: Sequence[Round], encoders: Collection[str]) -> dict[str, Any]:
    """Summarise all rounds of one model.

    Throughput is computed from each batch's median call, so that a single disturbance does not
    change it.

    Args:
        rounds: The rounds, all with the same batches.
        encoders: Names of the graphs that run once per window.

    Returns:
        Plain data; times in seconds, latencies those of single calls. Figures of single graphs are
        None for models without graphs.
    """
    first = rounds[0]
    runs = [times for each in rounds for times in each.seconds]
    typical = sum(statistics.median(times) for times in zip(*runs, strict=True))
    audio_s, tokens = sum(first.audio_s), sum(first.tokens)
    return {
        "latency_s": latencies([seconds for times in runs for seconds in times]),
        "audio_s": audio_s,
        "tokens": tokens,
        "tokens_per_s": tokens / typical,
        "rtf": typical / audio_s,
        "times_real_time": audio_s / typical,
        **_inside([each.profile for each in rounds if each.profile], sum(first.windows), encoders),
        "load_s": statistics.median(each.load_s for each in rounds),
        "first_s": _median(each.first_s for each in rounds),
        "peak_rss_bytes": max(each.peak_rss_bytes for each in rounds),
        "device_memory_bytes": max(
            (each.device_memory_bytes for each in rounds if each.device_memory_bytes is not None),
            default=None,
        ),
    }


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median of those that are known; None without one."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    """Return minimum, maximum and percentiles, interpolated between the two nearest samples."""
    values = np.percentile(seconds, _PERCENTILES).tolist()
    named = {f"p{percent}": value for percent, value in zip(_PERCENTILES, values, strict=True)}
    return {**named, "min": min(seconds), "max": max(seconds)}


def _inside(
    profiles: Sequence[Profile], windows: int, encoders: Collection[str]
) -> dict[str, float | None]:
    """Return the medians over the rounds of the graphs' times; `windows` counts one pass."""
    if not profiles:
        return {"encoder_window_s": None, "decoder_token_s": None, "outside_share": None}
    tokens = [time for p in profiles if (time := _token_s(p.graphs, encoders)) is not None]
    return {
        "encoder_window_s": statistics.median(_encoder_s(p.graphs, encoders) for p in profiles)
        / windows,
        "decoder_token_s": statistics.median(tokens) if tokens else None,
        "outside_share": statistics.median(
            1 - sum(graph.seconds for graph in p.graphs.values()) / p.seconds for p in profiles
        ),
    }


def _encoder_s(graphs: Mapping[str, GraphTime], encoders: Collection[str]) -> float:
    return sum(graph.seconds for name, graph in graphs.items() if name in encoders)


def _token_s(graphs: Mapping[str, GraphTime], encoders: Collection[str]) -> float | None:
    """Return the median call of the most often called graph that is no encoder."""
    decoders = [graph for name, graph in graphs.items() if name not in encoders]
    return max(decoders, key=lambda graph: graph.calls).median_s if decoders else None
