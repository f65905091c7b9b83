"""From seconds to percentiles, tokens a second and real-time factors."""

import pytest

from exporter.bench import stats
from exporter.bench.timing import GraphTime, Profile
from tests.support.rounds import round_


def test_percentiles_lie_between_samples() -> None:
    told = stats.latencies([float(n) for n in range(101)])
    assert told == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "min": 0.0, "max": 100.0}
    assert stats.latencies([2.0, 1.0])["p50"] == 1.5
    assert stats.latencies([3.0]) == dict.fromkeys(("p50", "p90", "p99", "min", "max"), 3.0)


def test_rounds_become_figures() -> None:
    """Two batches of 10 s and 8 tokens; their medians over the runs are 2 s and 4 s."""
    told = stats.of_rounds(
        [round_((2.0, 4.0), (9.0, 3.0), load_s=3.0), round_((1.0, 50.0), load_s=2.0)],
        ("encoder",),
    )
    assert told["latency_s"]["min"] == 1.0
    assert told["latency_s"]["max"] == 50.0
    assert (told["tokens"], told["audio_s"]) == (16, 20.0)
    assert told["tokens_per_s"] == pytest.approx(16 / 6)
    assert told["rtf"] == pytest.approx(6 / 20)
    assert told["times_real_time"] == pytest.approx(20 / 6)
    assert (told["load_s"], told["peak_rss_bytes"]) == (2.5, 300)
    assert told["encoder_window_s"] is told["decoder_token_s"] is told["outside_share"] is None


def test_time_inside_is_told_by_graph() -> None:
    graphs = {
        "encoder": GraphTime(calls=1, seconds=4.0, median_s=4.0),
        "first": GraphTime(calls=1, seconds=1.0, median_s=1.0),
        "decoder": GraphTime(calls=20, seconds=3.0, median_s=0.125),
    }
    profiled = round_((1.0,), profile=Profile(seconds=10.0, graphs=graphs))
    told = stats.of_rounds([profiled], ("encoder", "other"))
    assert told["encoder_window_s"] == 2.0
    assert told["decoder_token_s"] == 0.125
    assert told["outside_share"] == pytest.approx(0.2)


def test_a_model_of_one_graph_has_no_time_a_token() -> None:
    graphs = {"model": GraphTime(calls=1, seconds=4.0, median_s=4.0)}
    profiled = round_((1.0,), profile=Profile(seconds=5.0, graphs=graphs))
    told = stats.of_rounds([profiled], ("model",))
    assert (told["encoder_window_s"], told["decoder_token_s"]) == (2.0, None)
    assert told["outside_share"] == pytest.approx(0.2)
