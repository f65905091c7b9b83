"""What a report says of an artifact beyond its words: agreement with the original, step by step."""

from pydantic import BaseModel, ConfigDict

from exporter.artifact.manifest import AbsentIfEmpty


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Agreement(_Frozen):
    """Next tokens against the original's, teacher-forced: both decode the same given text.

    `kl_mean` and `kl_max` are of the KL divergence of the next token's distribution from the
    original's, in nats; `top1` is the share of steps with the same likeliest token. With `frames`,
    the steps are frames of a model without a decoder, of which each has a distribution.
    """

    clips: int
    steps: int
    kl_mean: float
    kl_max: float
    top1: float
    frames: AbsentIfEmpty[bool] = False


class Faithfulness(_Frozen):
    """Logits against those of the original in float with the plan's own numbers.

    Attributes:
        distance: Root mean square of the differences over the standard deviation of the logits.
        noise: The same of two runs of the simulated artifact whose features differ in the fifth
            digit: what rounding alone does.
        limit: The most that `distance` may be, as a multiple of `noise`.
        exact_distance: The distance without rounding of activations; None where the target cannot
            do that.
        exact_noise: What a difference in the sixth digit of the features does then.
        exact_limit: The most that `exact_distance` may be.
        by_step: The greatest distance of any clip by step, as a multiple of `noise`.
        step_limit: The most that one of them may be.
        seconds: What all comparisons with the original took, in the artifact's process.
    """

    distance: float
    noise: float
    limit: float
    exact_distance: float | None
    exact_noise: float | None
    exact_limit: float | None
    by_step: tuple[float, ...]
    step_limit: float
    seconds: float


def in_words(agreement: Agreement | None, faithfulness: Faithfulness | None) -> str:
    """Return one short sentence on both; empty for reports that have neither."""
    told = []
    if faithfulness:
        what = "frames" if agreement and agreement.frames else "next tokens"
        told.append(
            f"{what} as the plan's own: "
            f"{faithfulness.distance / faithfulness.noise:.2f} times rounding"
        )
    if agreement:
        told.append(
            f"KL from the original {short(agreement.kl_mean)}, top-1 {100 * agreement.top1:.1f} %"
        )
    sentence = "; ".join(told)
    return f"{sentence[:1].upper()}{sentence[1:]}." if told else ""


def short(value: float) -> str:
    """Format a number with two digits or a few more: 9.5e-5, 0.0018, 2.1, 345, 1.2e5."""
    if value and not 1e-3 <= abs(value) < 1e4:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
