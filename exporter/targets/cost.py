"""Estimate the cost of a build: memory, time and scratch space, from a few measured constants.

Pure arithmetic, so that a plan can be made, tested and recalibrated without building. Each target
has its own constants, for each device that it is built for. The sizes of the files are exact and
also come from the targets; the figures here are approximate.
"""

from dataclasses import dataclass

MB = 1_000_000

# The machine, threads and date of the measurement of the targets' constants.
MEASURED_ON = "AMD EPYC with AVX-512 VNNI, 2 cores, 28 November 2026"


@dataclass(frozen=True)
class Work:
    """The amounts that determine the cost of a build.

    `modules` own tensors, `largest_bytes` is the largest tensor, and `num_trials` counts graphs
    that are compiled only to be timed.
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
    graph that is compiled and timed, `largest` the number of copies of the largest tensor in
    memory. A loaded artifact takes `reload_ratio` times the size of its files. Bytes are read and
    written at `rate_bytes_s`, and hashed and loaded at `reload_bytes_s`.
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
        """Return the peak memory of the build step."""
        held = self.module_bytes * work.modules + self.largest * work.largest_bytes
        return round(self.base_bytes + held + self.trial_bytes * work.num_trials)

    def reload_rss_bytes(self, work: Work) -> int:
        """Return the peak memory of the fresh process that loads and tries the artifact."""
        return round(self.reload_base_bytes + self.reload_ratio * work.written_bytes)

    def scratch_bytes(self, work: Work) -> int:
        """Return the temporary disk space beside the artifact during the build."""
        return round(self.scratch_ratio * work.written_bytes)

    def seconds(self, work: Work) -> float:
        """Return the seconds of the build step."""
        moved = (work.read_bytes + work.written_bytes) / self.rate_bytes_s
        tried = self.trial_s * work.num_trials
        return self.base_s + self.module_s * work.modules + moved + tried

    def reload_seconds(self, work: Work) -> float:
        """Return the seconds to hash, load and try the artifact."""
        return self.reload_base_s + work.written_bytes / self.reload_bytes_s
