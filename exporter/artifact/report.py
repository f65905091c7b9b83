"""The report: what was measured on one artifact, against what, on which data, and the verdict.

Kept without torch because `push` and `inspect` read it. It is bound to the artifact's digest, so a
verdict cannot be carried to other bytes. `Report.model_json_schema()` is the written-down schema.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from exporter.artifact.manifest import Manifest
from exporter.artifact.store import require_plain
from exporter.errors import IntegrityError
from exporter.recipe import Decoding, Gate
from exporter.system.files import read_small, sha256_file, write_atomic

REPORT = "report.json"
PAGE = "report.html"
PREDICTIONS = "predictions.jsonl"
_MAX_BYTES = 16 << 20

Verdict = Literal["passed", "failed", "undecided"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArtifactStamp(_Frozen):
    """The artifact judged."""

    digest: str
    name: str
    recipe: str
    kind: str
    family: str
    options: dict[str, Any]
    size_bytes: int


class ReferenceStamp(_Frozen):
    """The original it was compared with, run in float32; `built_from`: its own origin."""

    source: str
    revision: str | None
    sha256: str
    size_bytes: int
    built_from: bool


class DataStamp(_Frozen):
    """The clips; `sha256` covers their names, audio bytes, texts and languages, in order."""

    source: str
    sha256: str
    clips: int
    audio_s: float
    words: int
    max_clips: int | None
    seed: int


class NormaliserStamp(_Frozen):
    """What was done to both sides' text before counting; never compare rates across stamps."""

    name: str
    language: str | None
    transformers: str
    jiwer: str
    spellings: int
    spellings_sha256: str


class Environment(_Frozen):
    """Where and with what it was measured."""

    machine: dict[str, Any]
    threads: int
    versions: dict[str, str]


class Interval(_Frozen):
    """An estimate with its paired bootstrap interval over clips.

    `detectable` is the smallest true difference that clips like these would show in four cases
    of five.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int
    seed: int
    detectable: float


class Figures(_Frozen):
    """One side's numbers. Rates are fractions; times cover audio samples in to text out.

    `rtf` is seconds of work by seconds of audio, `rtfx` its inverse; `load_s` starts when all
    libraries are imported; `load_average` is the machine's just before; `passes` is how often each
    clip was timed (its time is the median). Times are those of the timed clips, all else of all.
    """

    wer: float
    cer: float
    words: int
    substitutions: int
    deletions: int
    insertions: int
    characters: int
    character_errors: int
    empty_texts: int
    looping_texts: int
    tokens: int
    latency_median_s: float
    latency_p95_s: float
    rtf: float
    rtfx: float
    load_s: float
    peak_rss_bytes: int
    size_bytes: int
    passes: int
    load_average: float


class Slice(_Frozen):
    """The clips of one range of durations; `latency_ratio` is None where none of them was timed."""

    name: str
    clips: int
    audio_s: float
    words: int
    wer_reference: float | None
    wer: float | None
    latency_ratio: float | None


class ClipErrors(_Frozen):
    """A clip with its normalised texts and word errors."""

    id: str
    words: int
    errors_reference: int
    errors: int
    text: str
    pred_text_reference: str
    pred_text: str


class Check(_Frozen):
    """One condition; `passed` is None when the measurement cannot decide it."""

    name: str
    passed: bool | None
    value: float | None = None
    limit: float | None = None
    sentence: str


class Report(_Frozen):
    """Everything that the verdict rests on; percentages appear only in `sentence`s and pages.

    `timed_clips` is on how many of the clips times rest; None, in older reports, is all of them.
    `sha256` covers all else, so that an edit by hand shows; `write` puts it in.
    """

    schema_version: Literal[1] = 1
    created: str
    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    artifact: ArtifactStamp
    reference: ReferenceStamp
    data: DataStamp
    gate: Gate
    decoding: Decoding
    normaliser: NormaliserStamp
    environment: Environment
    reference_figures: Figures
    figures: Figures
    wer_difference: Interval
    cer_difference: Interval
    latency_ratio: Interval
    timed_clips: int | None = None
    clips_changed: int
    slices: tuple[Slice, ...]
    worst: tuple[ClipErrors, ...]
    predictions_sha256: str
    page_sha256: str = ""
    sha256: str = ""

    @model_serializer(mode="wrap")
    def _without_absent(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `timed_clips` out where it is None: older reports keep their bytes."""
        written: dict[str, Any] = inner(self)
        if self.timed_clips is None:
            written.pop("timed_clips", None)
        return written

    @property
    def seal(self) -> str:
        """What `sha256` has to be."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


def read(folder: Path) -> Report:
    """Read an artifact's report; raise IntegrityError when there is none or it is not ours."""
    path = folder / REPORT
    try:
        require_plain(path)
        written = read_small(
            path, _MAX_BYTES, IntegrityError, "a report of ours", follow_links=False
        )
        report = Report.model_validate_json(written)
    except FileNotFoundError:
        msg = f"{folder} has no {REPORT}: run `exporter validate {folder}` first"
        raise IntegrityError(msg) from None
    except (ValidationError, OSError) as error:
        reason = " ".join(str(error).split("\n")[:3])
        msg = f"{path} is not a report of this version ({reason}).\nRun `exporter validate` again."
        raise IntegrityError(msg) from error
    if report.sha256 != report.seal or text(report) != written:
        msg = f"{path} is not as this validator writes it.\nRun `exporter validate` again."
        raise IntegrityError(msg)
    return report


def read_of(folder: Path, manifest: Manifest) -> Report:
    """Read the report on an artifact; raise IntegrityError unless it, and what lies with it, is."""
    judged = read(folder)
    if judged.artifact.digest != manifest.digest:
        msg = f"{folder}: its report judged another build: run `exporter validate {folder}` again"
        raise IntegrityError(msg)
    for name, promised in ((PREDICTIONS, judged.predictions_sha256), (PAGE, judged.page_sha256)):
        path = folder / name
        if not path.is_file() or sha256_file(path) != promised:
            msg = f"{path} is not what the report was written with: run `exporter validate` again"
            raise IntegrityError(msg)
    return judged


def write(folder: Path, report: Report) -> Report:
    """Write the report beside the manifest, whole or not at all; return it as written."""
    sealed = report.model_copy(update={"sha256": report.seal})
    write_atomic(folder / REPORT, text(sealed))
    return sealed


def text(report: Report) -> bytes:
    """A report's bytes on disk."""
    return report.model_dump_json(indent=1).encode() + b"\n"
