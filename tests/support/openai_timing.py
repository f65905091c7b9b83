"""openai-whisper's rules for words: `timing.py` for their times, `utils.py` for subtitles.

Copied for comparison, without the model; release 20250625. Copyright (c) 2022 OpenAI, MIT.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class WordTiming:
    word: str
    tokens: list[int]
    start: float
    end: float
    probability: float


PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001


def merge_punctuations(alignment: list[WordTiming], prepended: str, appended: str) -> None:
    i = len(alignment) - 2
    j = len(alignment) - 1
    while i >= 0:
        previous = alignment[i]
        following = alignment[j]
        if previous.word.startswith(" ") and previous.word.strip() in prepended:
            following.word = previous.word + following.word
            following.tokens = previous.tokens + following.tokens
            previous.word = ""
            previous.tokens = []
        else:
            j = i
        i -= 1
    i = 0
    j = 1
    while j < len(alignment):
        previous = alignment[i]
        following = alignment[j]
        if not previous.word.endswith(" ") and following.word in appended:
            previous.word = previous.word + following.word
            previous.tokens = previous.tokens + following.tokens
            following.word = ""
            following.tokens = []
        else:
            i = j
        j += 1


def add_word_timestamps(  # noqa: C901
    segments: list[dict[str, Any]],
    alignment: list[WordTiming],
    time_offset: float,
    last_speech_timestamp: float,
) -> None:
    """With the alignment in place of the model."""
    word_durations = np.array([t.end - t.start for t in alignment])
    word_durations = word_durations[word_durations.nonzero()]
    median_duration = np.median(word_durations) if len(word_durations) > 0 else 0.0
    median_duration = min(0.7, float(median_duration))
    max_duration = median_duration * 2
    if len(word_durations) > 0:
        sentence_end_marks = ".。!！?？"  # noqa: RUF001
        for i in range(1, len(alignment)):
            if alignment[i].end - alignment[i].start > max_duration:
                if alignment[i].word in sentence_end_marks:
                    alignment[i].end = alignment[i].start + max_duration
                elif alignment[i - 1].word in sentence_end_marks:
                    alignment[i].start = alignment[i].end - max_duration
    merge_punctuations(alignment, PREPENDED, APPENDED)
    word_index = 0
    for segment in segments:
        saved_tokens = 0
        words: list[dict[str, Any]] = []
        while word_index < len(alignment) and saved_tokens < len(segment["tokens"]):
            timing = alignment[word_index]
            if timing.word:
                words.append(
                    {
                        "word": timing.word,
                        "start": round(time_offset + timing.start, 2),
                        "end": round(time_offset + timing.end, 2),
                        "probability": timing.probability,
                    }
                )
            saved_tokens += len(timing.tokens)
            word_index += 1
        if len(words) > 0:
            if words[0]["end"] - last_speech_timestamp > median_duration * 4 and (
                words[0]["end"] - words[0]["start"] > max_duration
                or (len(words) > 1 and words[1]["end"] - words[0]["start"] > max_duration * 2)
            ):
                if len(words) > 1 and words[1]["end"] - words[1]["start"] > max_duration:
                    boundary = max(words[1]["end"] / 2, words[1]["end"] - max_duration)
                    words[0]["end"] = words[1]["start"] = boundary
                words[0]["start"] = max(0, words[0]["end"] - max_duration)
            if segment["start"] < words[0]["end"] and segment["start"] - 0.5 > words[0]["start"]:
                words[0]["start"] = max(0, min(words[0]["end"] - median_duration, segment["start"]))
            else:
                segment["start"] = words[0]["start"]
            if segment["end"] > words[-1]["start"] and segment["end"] + 0.5 < words[-1]["end"]:
                words[-1]["end"] = max(words[-1]["start"] + median_duration, segment["end"])
            else:
                segment["end"] = words[-1]["end"]
            last_speech_timestamp = segment["end"]
        segment["words"] = words


def iterate_result(  # noqa: C901
    result: dict[str, Any],
    *,
    max_line_width: int | None = None,
    max_line_count: int | None = None,
    highlight_words: bool = False,
    max_words_per_line: int | None = None,
):
    preserve_segments = max_line_count is None or max_line_width is None
    max_line_width = max_line_width or 1000
    max_words_per_line = max_words_per_line or 1000

    def iterate_subtitles():
        line_len = 0
        line_count = 1
        # the next subtitle to yield (a list of word timings with whitespace)
        subtitle: list[dict[str, Any]] = []
        last: float = next((w["start"] for s in result["segments"] for w in s["words"]), 0.0)
        for segment in result["segments"]:
            chunk_index = 0
            words_count = max_words_per_line
            while chunk_index < len(segment["words"]):
                remaining_words = len(segment["words"]) - chunk_index
                if max_words_per_line > len(segment["words"]) - chunk_index:
                    words_count = remaining_words
                for i, original_timing in enumerate(
                    segment["words"][chunk_index : chunk_index + words_count]
                ):
                    timing = original_timing.copy()
                    long_pause = not preserve_segments and timing["start"] - last > 3.0
                    has_room = line_len + len(timing["word"]) <= max_line_width
                    seg_break = i == 0 and len(subtitle) > 0 and preserve_segments
                    if line_len > 0 and has_room and not long_pause and not seg_break:
                        # line continuation
                        line_len += len(timing["word"])
                    else:
                        # new line
                        timing["word"] = timing["word"].strip()
                        if (
                            len(subtitle) > 0
                            and max_line_count is not None
                            and (long_pause or line_count >= max_line_count)
                        ) or seg_break:
                            # subtitle break
                            yield subtitle
                            subtitle = []
                            line_count = 1
                        elif line_len > 0:
                            # line break
                            line_count += 1
                            timing["word"] = "\n" + timing["word"]
                        line_len = len(timing["word"].strip())
                    subtitle.append(timing)
                    last = timing["start"]
                chunk_index += max_words_per_line
        if len(subtitle) > 0:
            yield subtitle

    if len(result["segments"]) > 0 and "words" in result["segments"][0]:
        for subtitle in iterate_subtitles():
            subtitle_start = float(subtitle[0]["start"])
            subtitle_end = float(subtitle[-1]["end"])
            subtitle_text = "".join([word["word"] for word in subtitle])
            if highlight_words:
                last = subtitle_start
                all_words = [timing["word"] for timing in subtitle]
                for i, this_word in enumerate(subtitle):
                    start = float(this_word["start"])
                    end = float(this_word["end"])
                    if last != start:
                        yield last, start, subtitle_text

                    yield (
                        start,
                        end,
                        "".join(
                            [
                                (re.sub(r"^(\s*)(.*)$", r"\1<u>\2</u>", word) if j == i else word)
                                for j, word in enumerate(all_words)
                            ]
                        ),
                    )
                    last = end
            else:
                yield subtitle_start, subtitle_end, subtitle_text
    else:
        for segment in result["segments"]:
            segment_start = float(segment["start"])
            segment_end = float(segment["end"])
            segment_text = segment["text"].strip().replace("-->", "->")
            yield segment_start, segment_end, segment_text


def skip_hallucinations(  # noqa: C901
    current_segments: list[dict[str, Any]],
    threshold: float,
    previous_seek: int,
    seek: int,
    segment_size: int,
    content_frames: int,
    last_speech_timestamp: float,
    single_timestamp_ending: bool,
) -> tuple[int, int]:
    """`transcribe.py`, from where words have their times; the kept segments, and `seek`."""
    punctuation = PREPENDED + APPENDED
    time_offset, window_end_time = previous_seek / 100, (previous_seek + 3000) / 100
    segment_duration, content_duration = segment_size / 100, content_frames / 100

    def word_anomaly_score(word: dict[str, Any]) -> float:
        probability = word.get("probability", 0.0)
        duration = word["end"] - word["start"]
        score = 0.0
        if probability < 0.15:
            score += 1.0
        if duration < 0.133:
            score += (0.133 - duration) * 15
        if duration > 2.0:
            score += duration - 2.0
        return score

    def is_segment_anomaly(segment: dict[str, Any] | None) -> bool:
        if segment is None or not segment["words"]:
            return False
        words = [w for w in segment["words"] if w["word"] not in punctuation]
        words = words[:8]
        score = sum(word_anomaly_score(w) for w in words)
        return score >= 3 or score + 0.01 >= len(words)

    def next_words_segment(segments: list[dict[str, Any]]) -> dict[str, Any] | None:
        return next((s for s in segments if s["words"]), None)

    def get_end(segments: list[dict[str, Any]]) -> float | None:
        return next(
            (w["end"] for s in reversed(segments) for w in reversed(s["words"])),
            segments[-1]["end"] if segments else None,
        )

    if not single_timestamp_ending:
        last_word_end = get_end(current_segments)
        if last_word_end is not None and last_word_end > time_offset:
            seek = round(last_word_end * 100)
    if not single_timestamp_ending:
        last_word_end = get_end(current_segments)
        if last_word_end is not None and last_word_end > time_offset:
            remaining_duration = window_end_time - last_word_end
            if remaining_duration > threshold:
                seek = round(last_word_end * 100)
            else:
                seek = previous_seek + segment_size
    first_segment = next_words_segment(current_segments)
    if first_segment is not None and is_segment_anomaly(first_segment):
        gap = first_segment["start"] - time_offset
        if gap > threshold:
            seek = previous_seek + round(gap * 100)
            return 0, seek
    hal_last_end = last_speech_timestamp
    for si in range(len(current_segments)):
        segment = current_segments[si]
        if not segment["words"]:
            continue
        if is_segment_anomaly(segment):
            next_segment = next_words_segment(current_segments[si + 1 :])
            if next_segment is not None:
                hal_next_start = next_segment["words"][0]["start"]
            else:
                hal_next_start = time_offset + segment_duration
            silence_before = (
                segment["start"] - hal_last_end > threshold
                or segment["start"] < threshold
                or segment["start"] - time_offset < 2.0
            )
            silence_after = (
                hal_next_start - segment["end"] > threshold
                or is_segment_anomaly(next_segment)
                or window_end_time - segment["end"] < 2.0
            )
            if silence_before and silence_after:
                seek = round(max(time_offset + 1, segment["start"]) * 100)
                if content_duration - segment["end"] < threshold:
                    seek = content_frames
                return si, seek
        hal_last_end = segment["end"]
    return len(current_segments), seek
