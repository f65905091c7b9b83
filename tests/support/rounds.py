"""Rounds of a benchmark with known figures."""

from exporter.bench.timing import Profile, Round


def round_(*runs: tuple[float, ...], profile: Profile | None = None, load_s: float = 1.0) -> Round:
    batches = len(runs[0])
    return Round(
        seconds=runs,
        audio_s=(10.0,) * batches,
        windows=(2,) * batches,
        tokens=(8,) * batches,
        load_s=load_s,
        peak_rss_bytes=int(load_s * 100),
        profile=profile,
    )
