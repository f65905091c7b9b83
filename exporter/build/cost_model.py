"""What a build costs: memory, time and scratch space, from a few measured constants per target.

Pure arithmetic and data, so that a plan can be made, tested and recalibrated without building. The
sizes of the files are exact and come from the targets; these figures are "about".
"""

from dataclasses import dataclass

_MB = 1_000_000

# Where and when the constants below were measured, and with how many threads.
MEASURED_ON = "AMD EPYC with AVX-512 VNNI, 2 cores, 21 November 2026"


@dataclass(frozen=True)
class Work:
    """What decides the cost: how much there is to trace, to hold at once, to read and to write.

    `trials` are graphs that are compiled only to be timed.
    """

    modules: int
    largest_bytes: int
    read_bytes: int
    written_bytes: int
    num_trials: int = 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The constants of one kind of target.

    `base` is a process with its libraries, `module` is one module that owns tensors, `trial` a
    graph that is compiled and timed, `largest` how often the largest tensor is held; what is
    reloaded holds its files `reload_ratio` times. Bytes are read and written at `rate_bytes_s`, and
    hashed and loaded at `reload_bytes_s`.
    """

    base_bytes: int
    module_bytes: int = 0
    trial_bytes: int = 0
    largest: float = 0.0
    scratch_ratio: float = 0.0
    base_s: float
    module_s: float = 0.0
    trial_s: float = 0.0
    rate_bytes_s: float
    reload_base_bytes: int
    reload_ratio: float
    reload_base_s: float
    reload_bytes_s: float

    def peak_rss_bytes(self, work: Work) -> int:
        """The most memory that the build step holds."""
        held = self.module_bytes * work.modules + self.largest * work.largest_bytes
        return round(self.base_bytes + held + self.trial_bytes * work.num_trials)

    def reload_rss_bytes(self, work: Work) -> int:
        """The most memory that the fresh process holds in which the artifact first speaks."""
        return round(self.reload_base_bytes + self.reload_ratio * work.written_bytes)

    def scratch_bytes(self, work: Work) -> int:
        """Disk beside the artifact that is free again when it is built."""
        return round(self.scratch_ratio * work.written_bytes)

    def seconds(self, work: Work) -> float:
        """How long the build step takes."""
        moved = (work.read_bytes + work.written_bytes) / self.rate_bytes_s
        tried = self.trial_s * work.num_trials
        return self.base_s + self.module_s * work.modules + moved + tried

    def reload_seconds(self, work: Work) -> float:
        """How long it takes to seal the artifact and let it speak."""
        return self.reload_base_s + work.written_bytes / self.reload_bytes_s


COSTS: dict[str, Cost] = {
    "onnx-int8": Cost(
        base_bytes=515 * _MB,
        largest=1.3,
        base_s=7.5,
        rate_bytes_s=205 * _MB,
        reload_base_bytes=520 * _MB,
        reload_ratio=1.5,
        reload_base_s=4.0,
        reload_bytes_s=130 * _MB,
    ),
    "torch-int8": Cost(
        base_bytes=445 * _MB,
        largest=1.8,
        base_s=3.0,
        rate_bytes_s=450 * _MB,
        reload_base_bytes=490 * _MB,
        reload_ratio=2.1,
        reload_base_s=4.0,
        reload_bytes_s=80 * _MB,
    ),
    "aoti": Cost(
        base_bytes=420 * _MB,
        module_bytes=2_300_000,
        trial_bytes=35 * _MB,
        scratch_ratio=0.1,
        base_s=18.0,
        module_s=0.21,
        trial_s=17.0,
        rate_bytes_s=450 * _MB,
        reload_base_bytes=490 * _MB,
        reload_ratio=1.3,
        reload_base_s=4.0,
        reload_bytes_s=160 * _MB,
    ),
}


def cost_of(kind: str) -> Cost:
    """The constants of a kind; one that nobody has measured yet is taken for the dearest known."""
    return COSTS.get(kind) or max(COSTS.values(), key=lambda cost: cost.module_s)
