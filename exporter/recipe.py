"""Recipes: strict, frozen models, read from YAML, with every mistake reported at its line.

Recipes are data: no key names a Python object, and nothing is downloaded or resolved here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from exporter.errors import RecipeError
from exporter.formats.yaml_source import MAX_BYTES, Loc, Source, parse
from exporter.runtime.decoding import OPTIONS, USABLE
from exporter.system.files import read_small, readable_name

Options = TypeVar("Options", bound=BaseModel)


def _matching(pattern: str, meaning: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            msg = f"{value[:60]!r} is not {meaning}"
            raise _mistake(msg)
        return value

    return AfterValidator(check)


def _mistake(message: str, below: Loc = ()) -> PydanticCustomError:
    """Return an error for a validator to raise, about the position `below` its value."""
    return PydanticCustomError("mistake", "{message}", {"message": message, "below": below})


FolderName = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?",
        "a folder name: use letters, digits, dots, dashes and underscores, at most 96",
    ),
]
Kind = Annotated[str, _matching(r"[a-z0-9][a-z0-9-]{0,39}", "a target kind, like onnx-int8")]
Text = Annotated[str, _matching(USABLE, "a usable text")]
RepoId = Annotated[str, _matching(r"(?:[\w.-]+/)?[\w.-]{1,96}", "a Hub id like org/name")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SchemeSpec(_Strict):
    """A quantization scheme by name, or `{scheme: NAME, ...}` with parameters.

    Names and parameters are checked later, by `exporter.quantization`.
    """

    model_config = ConfigDict(extra="allow")

    scheme: Text

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"scheme": value}
        if not isinstance(value, dict):
            msg = "expected a scheme, like dynamic-int8, or {scheme: dynamic-int8, bits: 7}"
            raise _mistake(msg)
        return value

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters as written, not yet checked."""
        return dict(self.model_extra or {})


class CalibrationSpec(_Strict):
    """The recordings on which ranges of static quantization are calibrated, and how.

    `clips` is relative to the recipe, like those of `data`; `count` of them are drawn with `seed`.
    `percentile` is the share of values that the method of this name keeps, in percent.
    """

    clips: Text
    count: int = Field(default=32, ge=1, le=100_000)
    seed: int = Field(default=0, ge=0)
    method: Literal["minmax", "percentile", "mse", "entropy"] = "mse"
    percentile: float = Field(default=99.99, gt=50, le=100)

    @model_validator(mode="after")
    def _percentile_of_its_method(self) -> CalibrationSpec:
        if "percentile" in self.model_fields_set and self.method != "percentile":
            msg = f"`percentile` belongs to the method of this name, not to {self.method}"
            raise _mistake(msg, ("percentile",))
        return self


class Quantization(_Strict):
    """Schemes of modules by pattern, where the first match counts, and a default scheme."""

    default: SchemeSpec | None = None
    modules: dict[str, SchemeSpec] = {}
    calibration: CalibrationSpec | None = Field(default=None, exclude_if=lambda spec: spec is None)


class TargetSpec(_Strict):
    """One artifact to build.

    Every key but `kind`, `name` and `quantization` (which replaces the recipe's) is an option of
    the target's kind.
    """

    model_config = ConfigDict(extra="allow")

    kind: Kind
    name: FolderName = Field(default_factory=lambda known: known["kind"])
    quantization: Quantization | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options as written, not yet checked: see `Recipe.options`."""
        return dict(self.model_extra or {})


def _option(name: str) -> Any:
    """Return the field of an option with its default and its limits."""
    option = OPTIONS[name]
    how: dict[str, Any] = dict(option.limits)
    if option.kind is tuple:
        how = {"min_length": 1, "max_length": option.longest}  # limits are those of each
    if option.late:
        how["exclude_if"] = lambda value: value == option.default
    return Field(default=option.default, **how)


_Temperature = Annotated[float, Field(**OPTIONS["temperatures"].limits)]
_Clip = Annotated[float, Field(**OPTIONS["clip_timestamps"].limits)]


class Decoding(_Strict):
    """The decoding of audio to text, the same for the original and every artifact.

    Defaults and limits are in `exporter.runtime.decoding`. What a recipe leaves out has the default
    there, whatever the checkpoint's generation config says.
    Options younger than the first reports are left out of data where they have their default, so
    that those keep their bytes.
    """

    language: Text | None = _option("language")
    task: Literal["transcribe", "translate"] | None = _option("task")
    multilingual: bool = _option("multilingual")
    language_detection_segments: int = _option("language_detection_segments")
    language_detection_threshold: float = _option("language_detection_threshold")
    num_beams: int = _option("num_beams")
    patience: float | None = _option("patience")
    best_of: int = _option("best_of")
    length_penalty: float = _option("length_penalty")
    repetition_penalty: float = _option("repetition_penalty")
    no_repeat_ngram_size: int = _option("no_repeat_ngram_size")
    max_new_tokens: int | None = _option("max_new_tokens")
    chunk_length_s: float = _option("chunk_length_s")
    stride_length_s: float | None = _option("stride_length_s")
    timestamps: bool = _option("timestamps")
    batch_size: int = _option("batch_size")
    temperatures: tuple[_Temperature, ...] = _option("temperatures")
    compression_ratio_threshold: float | None = _option("compression_ratio_threshold")
    logprob_threshold: float | None = _option("logprob_threshold")
    no_speech_threshold: float | None = _option("no_speech_threshold")
    condition_on_previous: bool = _option("condition_on_previous")
    initial_prompt: Text | None = _option("initial_prompt")
    hotwords: Text | None = _option("hotwords")
    prefix: Text | None = _option("prefix")
    long_form: Literal["sequential", "chunked"] = _option("long_form")
    vad: bool = _option("vad")
    vad_threshold: float = _option("vad_threshold")
    vad_min_speech_s: float = _option("vad_min_speech_s")
    vad_min_silence_s: float | None = _option("vad_min_silence_s")
    vad_speech_pad_s: float = _option("vad_speech_pad_s")
    clip_timestamps: tuple[_Clip, ...] | None = _option("clip_timestamps")
    word_timestamps: bool = _option("word_timestamps")
    hallucination_silence_threshold: float | None = _option("hallucination_silence_threshold")


def _is_address(text: str) -> bool:
    """Return whether a text looks like an address in an object store, not a path."""
    return "://" in text


class Data(_Strict):
    """The data to validate on: `clips`, relative to the recipe, or a `dataset` on the Hub.

    `clips` may also be an address in an object store, like `s3://bucket/corpus`.
    """

    clips: Text | None = None
    dataset: RepoId | None = None
    config: Text | None = None
    split: Text | None = None
    revision: Text | None = None
    max_clips: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.clips is None) == (self.dataset is None):
            msg = "give exactly one of `clips` and `dataset`"
            raise _mistake(msg)
        if self.clips is not None and _is_address(self.clips) and "@" in self.clips:
            msg = "a recipe is published: keep keys and passwords of a store in the environment"
            raise _mistake(msg, ("clips",))
        for key in ("config", "split", "revision"):
            if self.clips is not None and getattr(self, key) is not None:
                msg = f"`{key}` belongs to a `dataset`, not to `clips`"
                raise _mistake(msg, (key,))
        return self

    @property
    def shown(self) -> str:
        """The source of the clips without paths of this machine, since it may be published."""
        if self.clips is not None and _is_address(self.clips):
            return readable_name(self.clips.partition("?")[0])
        if self.clips is not None:
            shown = Path(self.clips).name if Path(self.clips).is_absolute() else self.clips
            return readable_name(shown)
        parts = (self.dataset, self.config, self.split or "test", self.revision)
        return " ".join(filter(None, parts))


class Gate(_Strict):
    """The limits for an artifact; WERs are fractions: an increase of 0.005 is half a point.

    Above `max_reference_wer` of the original itself, the clips judge nothing. It is left out of
    data where it has its default, so that older reports keep their bytes.
    """

    max_wer_increase: float = Field(default=0.005, ge=0, le=1)
    max_latency_ratio: float = Field(default=1.0, gt=0)
    min_clips: int = Field(default=50, ge=1)
    max_reference_wer: float = Field(
        default=0.5, gt=0, le=1000, exclude_if=lambda most: most == 0.5
    )


class Hub(_Strict):
    """The repository that a passing artifact is pushed to, and what its card names.

    `base_model` is for checkpoints in folders; one from the Hub is its own base model.
    """

    repo: RepoId
    private: bool = True
    license: Text | None = None
    base_model: RepoId | None = None


def _distinct(targets: tuple[TargetSpec, ...]) -> tuple[TargetSpec, ...]:
    if not targets:
        msg = "name at least one target, like `- kind: onnx-int8`"
        raise _mistake(msg)
    seen: set[str] = set()
    for index, target in enumerate(targets):
        if target.name.lower() in seen:  # some file systems ignore the case of names
            message = f"two targets are named {target.name!r}: give one another `name`"
            raise _mistake(message, (index, "name"))
        seen.add(target.name.lower())
    return targets


class Recipe(_Strict):
    """One checkpoint, the artifacts to build from it, and the gate for each.

    `allow_pickle` allows weights in `pytorch_model.bin` where there are no safetensors.
    """

    name: FolderName
    checkpoint: Text
    targets: Annotated[tuple[TargetSpec, ...], AfterValidator(_distinct)]
    quantization: Quantization | None = None
    decoding: Decoding = Decoding()
    data: Data | None = None
    gate: Gate = Gate()
    allow_pickle: bool = False
    hub: Hub | None = None

    _source: Source = PrivateAttr()

    @property
    def path(self) -> Path:
        """The path of the recipe, as passed to `read`."""
        return self._source.path

    @property
    def text(self) -> str:
        """The file's text; with overrides, the resulting data as YAML."""
        return self._source.effective_text

    @property
    def sha256(self) -> str:
        """The digest of `text`, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def overrides(self) -> tuple[str, ...]:
        """The `a.b.0=value` texts as passed to `read`; `text` has them applied."""
        return self._source.overrides

    @property
    def absolute_paths(self) -> list[str]:
        """The absolute paths in the recipe, which exist only on this machine."""
        rules = (self.quantization, *(target.quantization for target in self.targets))
        calibrations = [each.calibration for each in rules if each]
        clips = [each.clips for each in calibrations if each]
        typed = (self.checkpoint, self.data.clips if self.data else None, *clips)
        return [path for path in typed if path and path.startswith(("/", "~"))]

    def error(self, loc: Loc, message: str, *, of_key: bool = False) -> RecipeError:
        """Return an error about the value at `loc`, like ("targets", 0), citing its line."""
        return RecipeError(self._source.cite(loc, message, of_key=of_key))

    def cite(self, loc: Loc, message: str) -> str:
        """Return a message about the value at `loc`, citing its line."""
        return self._source.cite(loc, message)

    def check(self, model: type[Options], data: object, loc: Loc) -> Options:
        """Return `data`, located at `loc`, as a `model`; raise RecipeError citing every mistake."""
        return self._source.check(model, data, loc)

    def options(self, index: int, model: type[Options]) -> Options:
        """Return target `index`'s options as a `model`; raise RecipeError citing every mistake."""
        return self.check(model, self.targets[index].options, ("targets", index))


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: The YAML file, at most 256 KiB of UTF-8.
        overrides: Changes like `decoding.num_beams=5` or `targets.0.name=small`.

    Returns:
        The recipe with the overrides applied.

    Raises:
        RecipeError: The file cannot be read, or with every mistake at its line.
    """
    for override in overrides:
        if readable_name(override) != override:
            msg = f"--set {readable_name(override)[:80]}: not UTF-8 text"
            raise RecipeError(msg)
    source = parse(path, _read_text(path), overrides)
    recipe = source.check(Recipe, source.data)
    recipe._source = source
    return recipe


def _read_text(path: Path) -> str:
    try:
        raw = read_small(path, MAX_BYTES, RecipeError, "a recipe")
    except OSError as error:
        msg = f"{path}: cannot read the recipe: {error.strerror}"
        raise RecipeError(msg) from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 text (byte {error.start})"
        raise RecipeError(msg) from None
