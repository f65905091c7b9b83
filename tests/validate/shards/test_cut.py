"""Shards: every clip once, whole batches, equal work, from what the data tell alone."""

from pathlib import Path

import pytest

from exporter.formats.clips import Clip
from exporter.validate.shards.cut import cut, windows_in, windows_of

TURBO, TINY = 809_000_000, 39_000_000


def clips(seconds: list[float]) -> list[Clip]:
    return [Clip(str(place), Path("missing"), "", duration_s=s) for place, s in enumerate(seconds)]


@pytest.mark.parametrize("least", [1, 2, 3, 7, 101, 500])
@pytest.mark.parametrize("batch_size", [1, 4, 200])
def test_shards_are_whole_batches_of_all_clips(least: int, batch_size: int) -> None:
    shards = cut(clips([1 + place % 50 for place in range(101)]), 10**6, batch_size, least)
    assert [place for shard in shards for place in shard] == list(range(101))
    assert all(shard.start % batch_size == 0 for shard in shards)
    assert 1 <= len(shards) <= least


def test_shards_are_equal_in_windows_and_not_in_clips() -> None:
    some = clips([5.0] * 600 + [120.0] * 100)
    shards = cut(some, 250, 1)
    assert [len(shard) for shard in shards] == [250, 250, 100 + 37, 63]
    assert [windows_in(some[shard.start : shard.stop]) for shard in shards] == [250, 250, 248, 252]


def test_a_clip_has_a_window_at_least_whatever_the_data_say_of_it() -> None:
    assert windows_in(clips([0.0, 0.1, 30.0, 30.1])) == 1 + 1 + 1 + 2
    assert cut([], 8, 1) == []
    assert cut(clips([3600.0]), 8, 1) == [range(1)]


def test_an_artifact_hears_more_in_a_shard_than_its_original() -> None:
    for parameters in (TINY, TURBO):
        original = windows_of(parameters, original=True)
        assert windows_of(parameters, original=False) == pytest.approx(4 * original, rel=0.1)
    assert windows_of(TINY, original=True) > windows_of(TURBO, original=True)
    assert windows_of(0, original=False) == 4096
    assert windows_of(10**12, original=True) == 8
