"""Parts of a recording, cut out of it while it is read."""

from collections.abc import Iterable, Iterator, Sequence

from exporter.formats.audio.samples import Samples

Span = tuple[int, int]
"""A part of a recording: its first sample, and the one after its last."""


def cut(read: Iterable[Samples], spans: Sequence[Span]) -> Iterator[tuple[int, Samples]]:
    """Cut spans out of a recording that is read once.

    Args:
        read: All samples, block by block.
        spans: The spans, in order, none of which begins before the end of another.

    Yields:
        A span's index, and its next samples.
    """
    index = start = 0
    for block in read:
        stop = start + len(block)
        while index < len(spans) and spans[index][0] < stop:
            begin, end = spans[index]
            part = block[max(begin - start, 0) : max(end - start, 0)]
            if len(part):
                yield index, part
            if end > stop:
                break
            index += 1
        if index == len(spans):
            return
        start = stop
