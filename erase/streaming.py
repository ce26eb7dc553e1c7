"""Images through an extractor: decoded in threads ahead of it, many sets in one stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from . import processes
from .ahead import ahead, cores
from .extractors import Extracted, Extractor
from .metrics.moments import Moments
from .pictures import Pictures, different_sizes, spans
from .signals import check

KEPT = 31 * 2**20  # bytes; glibc learns from blocks of at most 32 MiB


def batch_size(extractor: Extractor, asked: int | None) -> int:
    return asked or (256 if extractor.device.type == "cuda" else 64)


def workers(extractor: Extractor) -> int:
    """Threads that decode for a GPU, or that each decode and extract: two at least, and few, as each holds a batch."""
    return min(8, cores()) if extractor.device.type == "cuda" else max(2, min(4, cores()))


def keep_freed_blocks() -> None:
    """From now on glibc keeps freed blocks of up to this size for this process, and pages are not asked for again.

    It raises its threshold when a larger block than ever is freed. Other C libraries do nothing here.
    """
    torch.empty(KEPT, dtype=torch.uint8)


@contextlib.contextmanager
def shared_cores(threads: int) -> Iterator[Callable[[], None]]:
    """Yields what each of ``threads`` threads calls first, so that torch's own threads are no more than the cores.

    Else every one of them starts as many as there are cores, and they wait for each other.
    """
    whole = torch.get_num_threads()

    def start() -> None:
        torch.get_num_threads()  # torch sets a new thread's number when it is first asked for
        torch.set_num_threads(max(1, whole // threads))

    try:
        yield start
    finally:
        torch.set_num_threads(whole)  # the number that later threads begin with


def extract(
    sets: Iterable[Pictures],
    extractor: Extractor,
    batch: int | None = None,
    size: int | None = None,
    bar: Any = None,
    gate: bool = False,
    parts: Sequence[range] | None = None,
) -> Iterator[tuple[int, Extracted, tuple[int, int]]]:
    """Of every batch of every set in order: the set's number, what the extractor says, the images' height and width.

    On a CPU each thread decodes and extracts batches of its own; on a GPU threads decode into pinned memory ahead of
    it. A set is asked for when its first images are to be read. ``size``: centre-crop every image to it. ``gate``:
    also ask the extractor's image gate. ``parts``: only these of a single set. Raises UserError for a damaged image or
    one of another size.
    """
    count, cuda = batch_size(extractor, batch), extractor.device.type == "cuda"

    def make(item: tuple[int, Pictures, int, int]) -> tuple[torch.Tensor | Extracted, tuple[int, ...]]:
        _, one, start, stop = item
        images = one.read(start, stop, size)
        return (images.pin_memory() if cuda else extractor(images, gate)), tuple(images.shape)

    items = ((number, one, *span) for number, one in enumerate(sets) for span in spans(one, count))
    shapes: dict[int, tuple[int, ...]] = {}
    if parts is not None:
        only = next(iter(sets))
        items = ((0, only, part.start, part.stop) for part in parts)
        shapes[0] = tuple(only.read(0, 1, size).shape)  # of all parts, also those that others read
    threads = workers(extractor)
    depth = 2 * threads if cuda else threads  # on a CPU what waits only pushes the rest out of its cache
    keep_freed_blocks()
    with shared_cores(threads) as start_thread:
        if not cuda:
            start_thread()  # the caller's sums are made beside the threads, until all is read
        for (number, one, start, _), (made, shape) in ahead(make, items, threads, depth, start_thread):
            check()
            first = shapes.setdefault(number, shape)
            if first[2:] != shape[2:]:
                raise different_sizes(one.files[start] if one.files else one.name, shape, first)
            if not isinstance(made, Extracted):
                made = extractor(made.to(extractor.device, non_blocking=True), gate)
            if bar is not None:
                bar.update(shape[0])
            yield number, made, (first[2], first[3])


def moments(
    sets: Iterable[Pictures],
    extractor: Extractor,
    batch: int | None = None,
    size: int | None = None,
    bar: Any = None,
    parts: Sequence[range] | None = None,
) -> Iterator[tuple[int, Moments, tuple[int, int]]]:
    """Of every set in order, when it is through: its number, its moments, and its images' height and width.

    ``parts``: as in :func:`extract`.
    """
    current, total, shape = 0, Moments(), (0, 0)
    for number, found, seen in extract(sets, extractor, batch, size, bar, parts=parts):
        if number != current:
            yield current, total, shape
            current, total = number, Moments()
        total.add(found.features)
        shape = seen
    if shape != (0, 0):
        yield current, total, shape


def shared_moments(
    one: Pictures, extractor: Extractor, batch: int | None = None, size: int | None = None, bar: Any = None
) -> tuple[Moments, tuple[int, int]]:
    """The moments of one set, which all processes read together, and its images' height and width."""
    if processes.count() == 1:
        return next(moments([one], extractor, batch, size, bar))[1:]
    step = batch_size(extractor, batch)
    parts = list(processes.mine(range(*span) for span in spans(one, step)))
    _, own, _ = next(moments([one], extractor, batch, size, bar, parts), (0, Moments(), (0, 0)))  # it may have none
    whole = Moments()
    for other in processes.gather(own.cpu()):
        whole.merge(other)
    height, width = one.read(0, 1, size).shape[2:]
    return whole, (height, width)
