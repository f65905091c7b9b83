"""What a report says of an artifact beyond its words: agreement with the original, step by step."""

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Agreement(_Frozen):
    """Next tokens against the original's, teacher-forced: both decode the same given text.

    `kl_mean` and `kl_max` are of the KL divergence of the next token's distribution from the
    original's, in nats; `top1` is the share of steps with the same likeliest token.
    """

    clips: int
    steps: int
    kl_mean: float
    kl_max: float
    top1: float


class Faithfulness(_Frozen):
    """Logits against those of the original in float with the plan's own numbers.

    Attributes:
        distance: Root mean square of the differences over the standard deviation of the logits.
        noise: The same of two runs of the simulated artifact whose features differ in the sixth
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
