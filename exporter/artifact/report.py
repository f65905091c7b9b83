"""The report on one artifact: its figures, the original's, the data, and the verdict.

Without torch, because `push` and `inspect` read it. It holds the artifact's digest, so that its
verdict applies to these bytes alone. docs/report.schema.json is `Report.model_json_schema()`.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from exporter.artifact.evidence import Agreement, Faithfulness, GroupEffect
from exporter.artifact.manifest import MANIFEST, AbsentIfEmpty, Manifest
from exporter.artifact.store import AnyManifest, require_plain
from exporter.errors import DataError, IntegrityError, RecipeError, exhausted
from exporter.recipe import Decoding, Gate
from exporter.system.files import make_folder, read_small, sha256_file, write_atomic

REPORT = "report.json"
PAGE = "report.html"
PREDICTIONS = "predictions.jsonl"
_MAX_BYTES = 16 << 20

Verdict = Literal["passed", "failed", "undecided"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArtifactStamp(_Frozen):
    """The artifact that was validated."""

    digest: str
    name: str
    recipe: str
    kind: str
    family: str
    options: dict[str, Any]
    size_bytes: int


class ReferenceStamp(_Frozen):
    """The original, run in float32; `built_from` is True if the artifact was built from it.

    `kept` is of how many clips the transcripts are kept ones of an earlier run.
    """

    source: str
    revision: str | None
    sha256: str
    size_bytes: int
    built_from: bool
    kept: AbsentIfEmpty[int] = 0


class DataStamp(_Frozen):
    """The clips; `sha256` covers their names, audio bytes, texts and languages, in order.

    Where clips name a speaker or a recording, it covers these too. `unreadable` are the names of
    clips that were left out, because they could not be read and the user allowed it.
    """

    source: str
    sha256: str
    clips: int
    audio_s: float
    words: int
    max_clips: int | None
    seed: int
    unreadable: AbsentIfEmpty[tuple[str, ...]] = ()


class MisplacedText(_Frozen):
    """A clip of which the original hears what the true text of another clip says."""

    id: str
    reads_like: str


class CorpusFacts(_Frozen):
    """What the clips are, and what they exercise.

    Attributes:
        recordings: Distinct sounds among the clips.
        texts: Distinct true texts, normalised.
        wordless: Clips whose true text has no word.
        misplaced: Clips whose text fits another clip better, by the original's transcripts.
        examples: Some of them.
        window_s: Seconds of the model's window; 0 if it is not known.
        over_window: Clips longer than that.
        under_1_s: Clips shorter than a second.
        lacking: The ranges of durations without a clip.
        tokens: Distinct tokens of text in the original's transcripts.
        vocabulary: Tokens of text that the model has; 0 if it is not known.
        languages: Clips by the language that the data name; "" for none.
        plausible_wer: What the original's WER seldom exceeds, by family and language.
        notes: Sentences about what these clips cannot show.
    """

    recordings: int
    texts: int
    wordless: int
    misplaced: AbsentIfEmpty[int] = 0
    examples: AbsentIfEmpty[tuple[MisplacedText, ...]] = ()
    window_s: float
    over_window: int
    under_1_s: int
    lacking: tuple[str, ...]
    tokens: int
    vocabulary: int
    languages: AbsentIfEmpty[dict[str, int]] = {}
    plausible_wer: AbsentIfEmpty[float] = 0.0
    notes: tuple[str, ...] = ()


class NormaliserStamp(_Frozen):
    """The text normaliser; error rates compare only under the same one.

    `version` and `unicode` (of its character data) are those of a normaliser of ours; others are
    transformers'. `unit` is what errors are counted in, and empty in older reports: words,
    characters, or "by script": characters where a script has no spaces between words.
    """

    name: str
    version: AbsentIfEmpty[int] = 0
    unicode: AbsentIfEmpty[str] = ""
    unit: AbsentIfEmpty[Literal["", "word", "character", "by script"]] = ""
    language: str | None
    transformers: str
    jiwer: str
    spellings: int
    spellings_sha256: str


class DeviceStamp(_Frozen):
    """The card that both models ran on.

    Attributes:
        kind: Its kind, as `needs.device` of a manifest names it: "cuda".
        name: Its model.
        capability: Its compute capability, like "9.0".
        cuda: The latest version of CUDA that its driver runs, like "13.0".
        memory_bytes: Its memory.
    """

    kind: str
    name: str
    capability: str
    cuda: str
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability}, driver for CUDA {self.cuda})"


class Environment(_Frozen):
    """The machine, threads and package versions of the measurement.

    `device` is the card that it was made on; None of a CPU. `heard_on` is the kind of machine that
    wrote the transcripts, where it is another one: its CPU's level, versions, a hash of the code.
    """

    machine: dict[str, Any]
    threads: int
    versions: dict[str, str]
    device: AbsentIfEmpty[DeviceStamp | None] = None
    heard_on: AbsentIfEmpty[dict[str, Any]] = {}


class UnitStamp(_Frozen):
    """What the bootstrap of error rates resampled: speakers, recordings or clips, and why."""

    name: Literal["speaker", "recording", "clip"]
    count: int
    sentence: str


class LookStamp(_Frozen):
    """The looks of a gate that stops as soon as it is sure of the words.

    `planned` is how many clips are read up to each look, in an order that `seed` draws, and at the
    last all; those that cannot be read and are left out count here. `made` is how many looks were
    needed. `level` is that of each look's intervals.
    """

    planned: tuple[int, ...]
    made: int
    level: float
    seed: int


class Interval(_Frozen):
    """An estimate with its paired bootstrap interval.

    `resamples` is 0 where the bootstrap's distribution is known without drawing. `detectable` is
    the smallest true difference that data like these would show in four cases of five.
    """

    value: float
    low: float
    high: float
    level: float
    resamples: int
    seed: int
    detectable: float


class Figures(_Frozen):
    """The figures of the original or the artifact.

    Rates are fractions; times go from samples to text, and are those of the timed clips. `rtf` is
    seconds of computing per second of audio, `rtfx` its inverse. `load_s` begins after all imports.
    On a card, `first_s` is the first call, which may allocate, compile or capture, and
    `device_memory_bytes` the memory that the model takes there after the timed clips.
    `load_average` is the machine's, just before. Each clip was timed `passes` times, and its time
    is the median. `unusable_texts` could not be normalised, and count as wrong in all words.
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
    unusable_texts: AbsentIfEmpty[int] = 0
    tokens: int
    latency_median_s: float
    latency_p95_s: float
    rtf: float
    rtfx: float
    load_s: float
    first_s: AbsentIfEmpty[float | None] = None
    peak_rss_bytes: int
    device_memory_bytes: AbsentIfEmpty[int | None] = None
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
    """One condition; `passed` is None when the measurement cannot decide it.

    `sentence` says what was found, where, and how far beyond its bound. `advice`, of a check that
    did not pass, says what usually causes it and what to try.
    """

    name: str
    passed: bool | None
    value: float | None = None
    limit: float | None = None
    sentence: str
    advice: AbsentIfEmpty[str] = ""


class Report(_Frozen):
    """Everything that the verdict depends on.

    Rates are fractions; only `sentence`s have percentages. `latency_ratio` is the median of the
    clips' ratios, `latency_ratio_p95` their 95th percentile. `timed_clips` is how many clips were
    timed; None, in older reports, is all of them. `looks` is None where all clips were heard at
    once; else `data` are the clips that were heard, in their order. `groups` are measured only
    where words were lost and nothing but the plan explains it. `sha256` is over all other fields,
    so that an edit is detected; `write` sets it.
    """

    schema_version: Literal[1] = 1
    created: str
    verdict: Verdict
    sentence: str
    checks: tuple[Check, ...]
    artifact: ArtifactStamp
    reference: ReferenceStamp
    data: DataStamp
    corpus: AbsentIfEmpty[CorpusFacts | None] = None
    gate: Gate
    decoding: Decoding
    normaliser: NormaliserStamp
    environment: Environment
    reference_figures: Figures
    figures: Figures
    wer_difference: Interval
    cer_difference: Interval
    latency_ratio: Interval
    latency_ratio_p95: AbsentIfEmpty[float | None] = None
    units: AbsentIfEmpty[UnitStamp | None] = None
    looks: AbsentIfEmpty[LookStamp | None] = None
    timed_clips: AbsentIfEmpty[int | None] = None
    clips_changed: int
    slices: tuple[Slice, ...]
    worst: tuple[ClipErrors, ...]
    predictions_sha256: str
    agreement: AbsentIfEmpty[Agreement | None] = None
    faithfulness: AbsentIfEmpty[Faithfulness | None] = None
    groups: AbsentIfEmpty[tuple[GroupEffect, ...]] = ()
    page_sha256: str = ""
    sha256: str = ""

    def __repr__(self) -> str:
        return f"Report({self.verdict}: {self.sentence})"

    __str__ = __repr__

    @property
    def device(self) -> str:
        """The kind of device that the artifact was judged on."""
        stamp = self.environment.device
        return stamp.kind if stamp else "cpu"

    def is_about(self, manifest: AnyManifest) -> bool:
        """Return whether it judged an artifact of this manifest, on the device that it is for."""
        same = self.artifact.digest == manifest.digest
        return same and self.device == manifest.needs.device

    @property
    def differing(self) -> str:
        """How many transcripts differ from the original's, as words."""
        changed, clips = self.clips_changed, self.data.clips
        return f"differs in {changed:,} of {clips:,} transcripts, {100 * changed / clips:.1f} %"

    @property
    def seal(self) -> str:
        """The sha256 over all other fields."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


def read(folder: Path) -> Report:
    """Read an artifact's report.

    Raises:
        IntegrityError: There is none, it was edited, or another version wrote it.
    """
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
        msg = f"{path} was edited, or written by another version.\nRun `exporter validate` again."
        raise IntegrityError(msg)
    return report


def read_of(folder: Path, manifest: Manifest) -> Report:
    """Read the report of an artifact, and check that it belongs to it.

    Args:
        folder: The artifact.
        manifest: Its verified manifest.

    Returns:
        The report.

    Raises:
        IntegrityError: There is none, it is about another artifact, it was made on another kind of
            device than the artifact is built for, or page or predictions are not its own.
    """
    judged = read(folder)
    if judged.artifact.digest != manifest.digest:
        msg = f"{folder}: its report is about another build: run `exporter validate {folder}` again"
        raise IntegrityError(msg)
    if judged.device != manifest.needs.device:
        msg = (
            f"{folder} is built for {manifest.needs.device!r:.60}, and its report was made on "
            f"{judged.device!r:.60}: run `exporter validate {folder}` again"
        )
        raise IntegrityError(msg)
    for name, promised in ((PREDICTIONS, judged.predictions_sha256), (PAGE, judged.page_sha256)):
        path = folder / name
        if not path.is_file() or sha256_file(path) != promised:
            msg = f"{path} does not belong to the report: run `exporter validate` again"
            raise IntegrityError(msg)
    return judged


def places(artifacts: Sequence[Path], into: Path | None) -> list[Path]:
    """Return where the report of each artifact is written.

    Args:
        artifacts: The artifacts.
        into: A folder for the reports; None writes each beside its artifact's manifest.

    Returns:
        A folder for each artifact: `into` for a single one, else a folder of its name there.

    Raises:
        RecipeError: Two artifacts have the same name, or `into` is another artifact, or in one.
    """
    if into is None:
        return list(artifacts)
    ours = {artifact.resolve() for artifact in artifacts}
    another = (into / MANIFEST).exists() and into.resolve() not in ours
    if another or ours & set(into.resolve().parents):
        msg = f"--report {into} is another artifact, or lies in a sealed one: name another folder"
        raise RecipeError(msg)
    if len(artifacts) == 1:
        return [into]
    found = [into / artifact.resolve().name for artifact in artifacts]
    if len(set(found)) < len(found):
        msg = f"artifacts of the same name cannot share --report {into}: validate them one by one"
        raise RecipeError(msg)
    return found


def require_writable(folder: Path) -> None:
    """Make the folder of a report if it is missing, and check that files can be written there.

    Raises:
        DataError: They cannot.
        OSError: Disk ran out.
    """
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if exhausted(error):
            raise
        msg = f"no report can be written to {folder} ({error.strerror}): give --report FOLDER"
        raise DataError(msg) from None
    for name in (REPORT, PAGE, PREDICTIONS):
        if (folder / name).is_dir():
            msg = f"{folder / name} is a folder, where a file of the report goes: remove it"
            raise DataError(msg)


def write(folder: Path, report: Report) -> Report:
    """Write a report beside the manifest, atomically, and return it with its sha256."""
    sealed = report.model_copy(update={"sha256": report.seal})
    write_atomic(folder / REPORT, text(sealed))
    return sealed


def text(report: Report) -> bytes:
    """Return a report's bytes on disk."""
    return report.model_dump_json(indent=1).encode() + b"\n"
