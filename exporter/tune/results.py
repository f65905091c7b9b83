"""What a search finds, as plain data: the figures beside its page, and files of its steps."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from exporter.artifact.evidence import GroupEffect
from exporter.artifact.manifest import AbsentIfEmpty, Manifest
from exporter.artifact.report import Interval, Verdict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Trial(_Frozen):
    """A plan that was built and judged.

    Attributes:
        quantized: Names of the groups that keep their scheme; all others are float.
        verdict: The gate's.
        sentence: Why.
        failed: The names of the checks that did not pass.
        wer: The artifact's word error rate, a fraction.
        wer_reference: The original's.
        wer_difference: The artifact's minus the original's, with its interval.
        latency_ratio: The median of the clips' times over the original's.
        size_bytes: The artifact's size.
        seconds: What building and judging took.
        manifest: The artifact's manifest, which tells how its target rounds.
    """

    quantized: tuple[str, ...]
    verdict: Verdict
    sentence: str
    failed: tuple[str, ...]
    wer: float
    wer_reference: float
    wer_difference: Interval
    latency_ratio: float
    size_bytes: int
    seconds: float
    manifest: Manifest

    @property
    def told(self) -> str:
        """The verdict, with the checks that did not pass where it is not for lost words."""
        why = "" if "wer" in self.failed else ", ".join(self.failed)
        return f"{self.verdict} ({why})" if why else self.verdict

    @property
    def passed(self) -> bool:
        """True if the gate passed."""
        return self.verdict == "passed"


class Effect(_Frozen):
    """The effect of one group: a step of the search."""

    effect: GroupEffect


class Machine(_Frozen):
    """The speed of this machine, as `exporter machine` measures it."""

    measured: dict[str, Any]


class GroupRow(_Frozen):
    """A group in the figures.

    Attributes:
        name: The group.
        patterns: Shell-style patterns that select its modules.
        modules: Their number.
        saved: What quantizing it saves: bytes, or estimated seconds of a clip.
        effect: What it does to the logits, quantized alone; None where that was not needed.
        quantized: Whether it keeps its scheme in the chosen plan.
    """

    name: str
    patterns: tuple[str, ...]
    modules: int
    saved: float
    effect: GroupEffect | None
    quantized: bool


class Figures(_Frozen):
    """Everything that a search measured.

    Attributes:
        schema_version: The version of this form.
        recipe: The recipe's name.
        target: The target that was tuned.
        goal: What was saved: `speed` or `size`.
        clips: Clips that the effects were measured on.
        groups: The groups, in the model's order.
        trials: The plans that were judged, in the order of trial.
        chosen: The index of the chosen trial; None if none passed.
        complete: False if the time was over before the search ended.
        size_quantized: Bytes of the artifact with all groups quantized.
        size_float: Bytes of the artifact with all of them in float.
        seconds: What this run of the search took.
        frames: Whether effects are those on each frame, without a decoder; else on the next token.
    """

    schema_version: int = 1
    recipe: str
    target: str
    goal: str
    clips: int
    groups: tuple[GroupRow, ...]
    trials: tuple[Trial, ...]
    chosen: int | None
    complete: bool
    size_quantized: int
    size_float: int
    seconds: float
    frames: AbsentIfEmpty[bool] = False

    @property
    def kept(self) -> float | None:
        """The share of the bytes that quantizing everything saves, of the chosen plan."""
        if self.chosen is None or self.size_float == self.size_quantized:
            return None
        saved = self.size_float - self.trials[self.chosen].size_bytes
        return saved / (self.size_float - self.size_quantized)

    @property
    def kept_time(self) -> float | None:
        """The share of the time that the first plan, everything quantized, saves of the original's.

        None where that is not known, or saves nothing.
        """
        if self.chosen is None or self.trials[0].latency_ratio >= 1:
            return None
        saved = 1 - self.trials[self.chosen].latency_ratio
        return saved / (1 - self.trials[0].latency_ratio)
