"""Checks of the corpus itself: whether these clips can judge any artifact."""

from exporter.artifact.report import Check, CorpusFacts
from exporter.recipe import Gate

# Fewer misplaced texts move the original's and the artifact's WER alike, by less than this share.
_MISPLACED = 0.02
_UNREADABLE = 0.01  # more may be what is hard to hear, or another half of the data
_LEAST_MISPLACED = 3  # where sentences are much alike, a bad transcript may fit another text


def corpus_checks(
    facts: CorpusFacts, clips: int, reference_wer: float, gate: Gate
) -> tuple[Check, ...]:
    """Check the clips, their texts, and how well the original hears them.

    None of these fails an artifact: what they find leaves the verdict undecided.

    Args:
        facts: What the clips are.
        clips: The number of clips.
        reference_wer: The original's word error rate, a fraction.
        gate: The limits, from the recipe.
    """
    return (
        _enough(facts, clips, gate.min_clips),
        _belonging(facts, clips),
        _original(facts, reference_wer, gate.max_reference_wer),
    )


def readable(unreadable: int, clips: int) -> tuple[Check, ...]:
    """Check how many clips were left out because they could not be read; empty if none was.

    Args:
        unreadable: The clips that were left out.
        clips: The others.
    """
    if not unreadable:
        return ()
    share = unreadable / (clips + unreadable)
    good = share <= _UNREADABLE
    return (
        Check(
            name="readable",
            passed=good or None,
            value=share,
            limit=_UNREADABLE,
            sentence=f"{unreadable} of {clips + unreadable} clips could not be read and were left "
            f"out ({100 * share:.2f} %, at most {100 * _UNREADABLE:.0f} % allowed).",
            advice="" if good else "Mend the clips, or take them out of the data.",
        ),
    )


def _enough(facts: CorpusFacts, clips: int, least: int) -> Check:
    recordings = facts.recordings
    sentence = f"{clips} clips; the gate asks for at least {least}."
    if recordings < clips:
        sentence = (
            f"{clips} clips, {recordings} of them different recordings; "
            f"the gate asks for at least {least}."
        )
    good = recordings >= least
    advice = ""
    if not good:
        advice = "Validate on more clips (`data`, or --data), or lower `gate.min_clips`."
        if clips >= least:
            advice = "Copies are no further evidence, also under other names. " + advice
    return Check(
        name="clips",
        passed=good or None,
        value=recordings,
        limit=least,
        sentence=sentence,
        advice=advice,
    )


def _belonging(facts: CorpusFacts, clips: int) -> Check:
    """Check that the true texts are those of their clips."""
    count = facts.misplaced
    sentence = "No true text fits another clip better than its own."
    if count:
        which = f"The texts of {count} clips fit other clips better"
        if count == 1:
            which = "The text of 1 clip fits another clip better"
        shown = "; ".join(
            f"{one.id} reads like the text of {one.reads_like}" for one in facts.examples[:2]
        )
        sentence = f"{which}: {shown}."
    good = count < max(_LEAST_MISPLACED, _MISPLACED * clips)
    shifted = (
        "Lines of the manifest were probably shifted, sorted or shuffled: "
        "pair the recordings and texts again."
    )
    return Check(
        name="true texts",
        passed=good or None,
        value=count,
        sentence=sentence,
        advice="" if good else shifted,
    )


def _original(facts: CorpusFacts, wer: float, most: float) -> Check:
    """Check that the original can hear these clips: else its errors hide the artifact's."""
    sentence = f"The original's own WER is {100 * wer:.2f} % (at most {100 * most:.0f} % allowed)."
    good = wer <= most
    if not good and facts.wordless:
        sentence += f" {facts.wordless} of the texts are empty, or have no word."
    if good and facts.plausible_wer and wer > facts.plausible_wer:
        sentence += (
            f" That is more than models of this family usually have "
            f"({100 * facts.plausible_wer:.0f} %): look at the true texts and the language."
        )
    hard = (
        "Texts of other clips or of another language, the wrong language in `decoding`, or a "
        "checkpoint that was not trained for these clips do that. If the clips are this hard, "
        "raise `gate.max_reference_wer`."
    )
    return Check(
        name="original",
        passed=good or None,
        value=wer,
        limit=most,
        sentence=sentence,
        advice="" if good else hard,
    )
