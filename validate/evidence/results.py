"""What comparisons of an artifact with its original need and find, as plain data."""

from pathlib import Path
from typing import Any

from pydantic import Field

from exporter.artifact.manifest import Manifest
from exporter.validate.measure.model import Frozen, ModelSpec


class Steps(Frozen):
    """An input decoded with given tokens, step by step.

    Attributes:
        name: The input.
        error: What decoding it ended with, if it did not succeed.
        clip: Whether it is a clip of the corpus.
        finite: Whether all logits are finite; else the numbers of such steps are 1e9.
        first: The first step whose logits are not finite; None where all are.
        kl_original: The KL divergence of the next token's distribution from the original's, in
            nats, by step.
        top1_original: Whether the likeliest token is the original's, by step.
        distance: How far the logits lie from the simulated artifact's, by step: the root mean
            square of the differences over the standard deviation of the logits.
        exact: The same without rounding of activations; None where the target cannot do that.
    """

    name: str
    clip: bool
    error: str = ""
    finite: bool = True
    first: int | None = None
    kl_original: tuple[float, ...] = ()
    top1_original: tuple[bool, ...] = ()
    distance: tuple[float, ...] = ()
    exact: tuple[float, ...] | None = None


class ModuleDistance(Frozen):
    """How far a module's outputs lie from the simulated ones, and how far rounding moves them.

    Both are root mean squares over the standard deviation of the outputs.
    """

    module: str
    distance: float
    noise: float


class Consistency(Frozen):
    """One way of asking an artifact the same thing.

    Attributes:
        check: The check that it belongs to.
        what: What was done, for messages.
        distance: How far the logits lie from those of the plain way.
        noise: How far rounding alone moves them.
        exact: Whether activations were not rounded, and so nothing but float32's own rounding is
            left.
        error: What it ended with, if it did not succeed.
    """

    check: str
    what: str
    distance: float
    noise: float
    exact: bool = False
    error: str = ""


class Resources(Frozen):
    """Memory and time of many calls.

    Attributes:
        growth_bytes: Growth of resident memory over `calls` calls.
        calls: Their number.
        early_s: Seconds of a step at the decoder's first positions.
        late_s: Seconds of a step at its last positions.
        windows_s: Seconds to encode each input, by its name.
        lengths: The length of each input's features, where inputs have different lengths.
    """

    growth_bytes: int
    calls: int
    early_s: float
    late_s: float
    windows_s: dict[str, float]
    lengths: dict[str, int] = Field(default_factory=dict)


class RangeFit(Frozen):
    """How well the range of a module's inputs fits what clips give the original's.

    Attributes:
        module: The module.
        range: The range that the plan has.
        seen: The range that the same method chooses of these clips.
        method: The method.
        times: The error of the inputs in codes of `range`, in multiples of that with `seen`.
        chance: The same of one half of the clips with the range of the other half, at least 1.
    """

    module: str
    range: tuple[float, float]
    seen: tuple[float, float]
    method: str
    times: float
    chance: float = 1.0


class Findings(Frozen):
    """Everything that was found about one artifact.

    Attributes:
        steps: The inputs, step by step.
        noise: How far rounding alone moves the simulated artifact's logits.
        exact_noise: The same without rounding of activations.
        modules: Modules in the order of computation, with rounding.
        exact_modules: The same without rounding of activations.
        features: The greatest difference of the features from the original's, by input.
        consistency: The same asked in several ways.
        resources: Memory and time; None where decoding fails.
        seconds: What all of it took.
        decoder: Whether steps are a decoder's; else they are frames.
        inexact: Why the artifact could not be opened without rounding of activations, where the
            target can do that; else empty.
    """

    steps: tuple[Steps, ...]
    noise: float
    exact_noise: float | None
    modules: tuple[ModuleDistance, ...]
    exact_modules: tuple[ModuleDistance, ...]
    features: dict[str, float]
    consistency: tuple[Consistency, ...]
    resources: Resources | None
    seconds: float
    decoder: bool = True
    inexact: str = ""


class ReferenceRequest(Frozen):
    """What `reference.write` shall compute.

    Attributes:
        original: The original checkpoint.
        artifact: The artifact that it is compared with.
        clips: Clips of the corpus.
        names: Their names.
        output: An empty folder for the arrays; empty as long as it is not known.
    """

    original: ModelSpec
    artifact: Path
    clips: tuple[Path, ...]
    names: tuple[str, ...]
    output: Path = Path()


class Expected(Frozen):
    """The original's part, written to files by `reference.write`.

    Attributes:
        folder: The folder of the arrays.
        prompt: Tokens of the prompt.
        decoder: Whether the model has a decoder, whose tokens can be given.
        cases: Each input's name, whether it is a clip, and its number of tokens.
        modules: Names of modules in the order of computation.
        weights: Weights that are not what the plan makes of the checkpoint, as sentences.
        ranges: How well the ranges of static quantization fit the clips, by module.
    """

    folder: str
    prompt: int
    decoder: bool
    cases: tuple[dict[str, Any], ...]
    modules: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    ranges: tuple[RangeFit, ...] = ()


class SensitivityRequest(Frozen):
    """What `sensitivity.measure` shall compute.

    Attributes:
        original: The original checkpoint.
        clips: Recordings; at most a window of each is used.
        groups: The modules of each group, by its name.
        manifest: The manifest of an artifact, for how its target rounds; None without groups.
        plan: The plan that gives each module its scheme, as data.
        limit_s: Nothing is measured if the groups would take longer; None: without a limit.
    """

    original: ModelSpec
    clips: tuple[Path, ...]
    groups: dict[str, tuple[str, ...]]
    manifest: Manifest | None = None
    plan: tuple[dict[str, Any], ...] = ()
    limit_s: float | None = None


class Survey(Frozen):
    """What one clip costs the original, on average.

    Attributes:
        transcribe_s: Seconds to transcribe it, as the recipe says.
        forward_s: Seconds to decode its text once more when that is given.
        tokens: Tokens of its text, the prompt included.
        rows: The vectors that each linear module or convolution gives, by its name.
        frames: Whether each frame has a distribution over the tokens, without a decoder.
    """

    transcribe_s: float
    forward_s: float
    tokens: float
    rows: dict[str, float]
    frames: bool
