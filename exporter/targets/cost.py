"""What a build costs: memory, time and scratch space, from a few measured constants.

Pure arithmetic, so that a plan can be made, tested and recalibrated without building. Each target
tells its own constants, for each device that it is built for. The sizes of the files are exact and
come from the targets too; these figures are "about".
"""

from dataclasses import dataclass

MB = 1_000_000

# Where and when the targets' constants were measured, and with how many threads.
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
    """The constants of one kind of target on one kind of device.

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
