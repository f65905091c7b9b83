"""Write the report of one artifact: its figures and checks, its page, and its predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.artifact import report, store
from exporter.artifact.evidence import GroupEffect
from exporter.artifact.report import Check, CorpusFacts, LookStamp, MisplacedText, Report
from exporter.system.files import copy_atomic, readable_name, write_atomic
from exporter.system.progress import Progress
from exporter.validate.corpus.facts import plausible_wer
from exporter.validate.corpus.index import RowFile
from exporter.validate.corpus.misplaced import misplaced
from exporter.validate.evidence.blame import WORDS, advice_on, explains, is_due, search_of
from exporter.validate.evidence.results import Findings
from exporter.validate.gate import judge as gate
from exporter.validate.gate.corpus import readable
from exporter.validate.gate.evidence import Evidence, agreement_of, checks_of, faithfulness_of
from exporter.validate.measure.pair import MeasuredPair
from exporter.validate.measure.run import ModelRun
from exporter.validate.measure.transcripts import ClipResult
from exporter.validate.page import render as html_report
from exporter.validate.scoring.compare import Comparison, ModelOutput, compare
from exporter.validate.scoring.normaliser import Normaliser, normaliser
from exporter.validate.subjects import Subject

if TYPE_CHECKING:
    from exporter.checkpoint.checkpoint import Checkpoint

# The original's size is reported as that of its weights in float32, in which it runs here.
_FLOAT32_BYTES = 4
_EXAMPLES = 5  # of misplaced texts, in the report


@dataclass(frozen=True)
class Pair:
    """An artifact and its original, both timed.

    `found` are the checks made before; `timed` is whether the times may be judged; `heard_on` is
    the kind of machine that transcribed, where it is another one than the machine of the times.
    """

    subject: Subject
    checkpoint: Checkpoint
    found: tuple[Check, ...]
    original: ModelRun
    artifact: ModelRun
    measured: MeasuredPair
    timed: bool = True
    heard_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def looks(self) -> LookStamp | None:
        """The looks, if there may be several."""
        looks = self.subject.looks
        return looks.stamp(self.subject.look + 1) if looks else None

    def at(self, look: int) -> Pair:
        """Return the pair with the clips up to a look, from 0."""
        return replace(self, subject=replace(self.subject, look=look))


@dataclass(frozen=True)
class Scored:
    """Both sides of a pair, scored on the clips of its subject's corpus.

    `predictions` are in a temporary file. `settled` is whether no more clips need to be heard.
    """

    pair: Pair
    case: Comparison
    equal: Normaliser
    predictions: RowFile
    settled: bool


Blame = Callable[[], tuple[GroupEffect, ...]]
"""Measures what each group of modules does to the original."""


def score(
    pair: Pair,
    original: Iterable[ClipResult],
    artifact: Iterable[ClipResult],
    written: Path,
    progress: Progress,
) -> Scored:
    """Score an artifact beside its original.

    Args:
        pair: Both sides.
        original: What the original heard in each clip.
        artifact: What the artifact heard.
        written: A new temporary file, for the predictions.
        progress: Called with the current activity.
    """
    subject = pair.subject
    progress(f"{pair.artifact.name}: comparing texts", None)
    float32_bytes = _FLOAT32_BYTES * pair.checkpoint.parameters
    equal = normaliser(language_of(subject), subject.folder)
    predictions = RowFile(written)
    with predictions.writing() as write:
        case = compare(
            subject.corpus,
            subject.timed,
            ModelOutput(pair.measured.reference, original, float32_bytes),
            ModelOutput(pair.measured.candidate, artifact, subject.manifest.size_bytes),
            equal.words,
            rows=predictions,
            write=write,
            sounds=subject.corpus.sounds,
        )
    looks = subject.looks
    settled = (
        looks is None
        or subject.look + 1 == len(looks.sizes)
        or (
            looks.order.has_units(case.units)
            and gate.settled(case, subject.recipe.gate, looks.level)
        )
    )
    return Scored(pair, case, equal, predictions, settled)


def write_report(scored: Scored, blame: Blame | None) -> Report:
    """Judge one artifact, and write its three files, the report last.

    `blame` is called if words were lost and nothing but the plan explains it; None is not to ask.
    """
    subject, case = scored.pair.subject, scored.case
    equal, predictions = scored.equal, scored.predictions
    store.require_same(subject.folder, subject.manifest)
    facts = _facts(subject, case, equal.stamp.language)
    judged = _report(scored.pair, case, facts, equal, predictions.sha256)
    if blame is not None and is_due(judged.checks, judged.faithfulness):
        judged = _blaming(judged, blame(), search_of(subject.manifest, subject.name))
    page = html_report.render(judged, case).encode()
    judged = judged.model_copy(update={"page_sha256": hashlib.sha256(page).hexdigest()})
    with predictions.path.open("rb") as stream:
        copy_atomic(stream, subject.place / report.PREDICTIONS)
    predictions.path.unlink()
    write_atomic(subject.place / report.PAGE, page)
    return report.write(subject.place, judged)


def _blaming(judged: Report, groups: tuple[GroupEffect, ...], command: str) -> Report:
    """Return a report that names the groups of modules most to blame."""
    if not explains(groups, judged.checks, judged.agreement):
        return judged
    frames = judged.agreement is not None and judged.agreement.frames
    more = advice_on(groups, command, frames=frames)
    checks = tuple(
        check.model_copy(update={"advice": f"{check.advice} {more}".strip()})
        if check.passed is False and check.name in WORDS
        else check
        for check in judged.checks
    )
    how = judged.verdict, checks, judged.wer_difference, judged.latency_ratio
    told = {"checks": checks, "sentence": gate.sentence_of(*how), "groups": groups}
    return judged.model_copy(update=told)


def _facts(subject: Subject, case: Comparison, language: str | None) -> CorpusFacts:
    """Return what the corpus is, with what only its texts and the recipe tell."""
    facts, scores = case.corpus_facts(), case.reference.scores
    found = misplaced(
        scores.errors,
        scores.words,
        lambda place: case.normalise(case.rows[place]["text"]) or "",
        lambda place: case.texts(place).reference,
    )
    pairs = [(case.texts(one).id, case.texts(other).id) for one, other in found.pairs[:_EXAMPLES]]
    return facts.model_copy(
        update={
            "misplaced": found.clips,
            "examples": tuple(MisplacedText(id=one, reads_like=other) for one, other in pairs),
            "plausible_wer": plausible_wer(subject.manifest.family, language),
            "notes": (*facts.notes, *subject.spoken.notes),
        }
    )


def language_of(subject: Subject) -> str | None:
    """Return the language of the transcripts, as far as clips, recipe and model tell it."""
    from exporter.families import FAMILIES, read_configs

    codes = subject.spoken.codes
    (*languages,) = {codes.get(name, name) if name else None for name in subject.reader.languages}
    spoken = languages[0] if len(languages) == 1 else None
    name = subject.manifest.family
    configs = read_configs(subject.folder, name)
    return FAMILIES[name].text_language(configs, subject.recipe.decoding, spoken)


def _against_another(subject: Subject, checkpoint: Checkpoint) -> Iterator[Check]:
    """Yield an undecided check where the original is not the one that the artifact is built from.

    Agreement with another model proves nothing: it may have the same faults.
    """
    origin, other = subject.manifest.checkpoint, checkpoint.sha256
    if other == origin.sha256:
        return
    yield Check(
        name=gate.REFERENCE,
        passed=None,
        sentence=f"Against another original: {checkpoint.name} (sha256 {other[:12]}), and it was "
        f"built from {readable_name(Path(origin.source).name)} (sha256 {origin.sha256[:12]}).",
        advice="Give the checkpoint that it was built from, or leave --reference out.",
    )


def _evidence_checks(pair: Pair, findings: Findings | None) -> Sequence[Check]:
    """Return the checks of an artifact against its own original; none against another."""
    expected = pair.measured.expected
    if findings is None or expected is None:
        return ()
    peaks = pair.measured.candidate.peak_rss_bytes, pair.measured.reference.peak_rss_bytes
    return checks_of(Evidence(findings, expected.weights, *peaks, expected.ranges))


def _report(
    pair: Pair, case: Comparison, facts: CorpusFacts, equal: Normaliser, predictions_sha256: str
) -> Report:
    subject, checkpoint = pair.subject, pair.checkpoint
    manifest, recipe, data = subject.manifest, subject.recipe, subject.data
    measured = case.candidate.measurement
    findings = measured.findings
    unreadable = subject.corpus.unreadable
    found = [*_against_another(subject, checkpoint), *pair.found, *_evidence_checks(pair, findings)]
    found += readable(len(unreadable), len(subject.corpus))
    judged = gate.judge(
        case, recipe.gate, len(manifest.files), facts, found, pair.looks, timed=pair.timed
    )
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=judged.verdict,
        sentence=judged.sentence,
        checks=judged.checks,
        artifact=report.ArtifactStamp(
            digest=manifest.digest,
            name=subject.name,
            recipe=manifest.recipe.name,
            kind=manifest.kind,
            family=manifest.family,
            options=manifest.options,
            size_bytes=manifest.size_bytes,
        ),
        reference=report.ReferenceStamp(
            source=checkpoint.name,
            revision=checkpoint.revision,
            sha256=checkpoint.sha256,
            size_bytes=checkpoint.size_bytes,
            built_from=checkpoint.sha256 == manifest.checkpoint.sha256,
            kept=case.reference.kept_texts,
        ),
        data=report.DataStamp(
            source=data.shown,
            sha256=subject.corpus.sha256,
            clips=len(subject.corpus),
            audio_s=sum(case.durations_s.tolist()),
            words=int(case.reference.scores.words.sum()),
            max_clips=data.max_clips,
            seed=data.seed,
            unreadable=tuple(map(readable_name, unreadable)),
        ),
        corpus=facts,
        gate=recipe.gate,
        decoding=recipe.decoding,
        normaliser=equal.stamp,
        environment=report.Environment(
            machine=measured.machine,
            threads=measured.threads,
            versions=measured.versions,
            device=measured.device,
            heard_on=dict(pair.heard_on),
        ),
        reference_figures=gate.figures(case.reference, case.timed_audio_s),
        figures=gate.figures(case.candidate, case.timed_audio_s),
        wer_difference=judged.wer_difference,
        cer_difference=judged.cer_difference,
        latency_ratio=judged.latency_ratio,
        latency_ratio_p95=judged.latency_ratio_p95,
        units=judged.units,
        looks=pair.looks,
        timed_clips=len(case.timed),
        clips_changed=len(case.changed),
        slices=gate.slices(case),
        worst=gate.worst(case),
        predictions_sha256=predictions_sha256,
        agreement=findings and agreement_of(findings),
        faithfulness=findings and faithfulness_of(findings),
    )
