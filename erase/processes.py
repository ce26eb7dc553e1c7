"""The processes of one run: all go through the same flow with the same values, and long loops are dealt out to them.

torchrun (or accelerate launch) starts them. What belongs to all is written by the main process alone, and what depends
on the file system is decided by it alone. The folders must be on storage that all of them see. With one process every
function here gives back what it was given and changes no bit. Collective functions must be called by all processes, in
the same order.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .errors import PeerError, StoppedError, UserError
from .launched import launched, launched_rank
from .launched import number as launcher_number

Item = TypeVar("Item")
Result = TypeVar("Result")
PATIENCE = timedelta(days=7)  # with one that is not done; a dead one is noticed at once
BUCKET = 1 << 26  # bytes that are summed at once
_store: Any = None  # where the launcher keeps what all can see
_alone = False  # the main process does something by itself
_lost = False  # another process has ended, or its machine


def start(device: str = "auto") -> None:
    """Joins the processes that a launcher started, each with the GPU of its number on its machine.

    ``device``: the run's; "cpu" for none. Raises UserError where there are too few GPUs. Without a launcher: nothing.
    """
    global _store, _lost
    _lost = False
    if launched() == 1 or dist.is_initialized():
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        local, there = launcher_number("LOCAL_RANK", 0), torch.cuda.device_count()
        if ":" in device:
            raise UserError(f"the device {device} is one GPU and there are {launched()} processes; use cuda")
        if local >= there:
            raise UserError(f"more processes than GPUs ({there}); start one for each GPU, or use the device cpu")
        torch.cuda.set_device(local)
    # Imported later (diffusers does), its functions' defaults would hold the group for ever: stop() would not end the
    # group's threads, and one that is still at work while Python ends aborts the process, exit code 134.
    from torch.distributed.nn import functional  # noqa: F401

    with _together():
        _store, number, size = next(rendezvous("env://", timeout=PATIENCE))
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        dist.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=PATIENCE)


def stop() -> None:
    """Leaves the others, after all is done, and ends the threads that spoke to them."""
    if dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() and not _alone else 0


def is_main() -> bool:
    return rank() == 0


def first_to_end() -> bool:
    """Whether no process has asked this yet. Of several that fail, one says why."""
    if _store is None:
        return launched_rank() == 0
    try:
        return _store.add("erase/ended", 1) == 1
    except RuntimeError:  # the store is gone
        return True


def joined() -> bool:
    """Whether there are threads here that speak to other processes."""
    return dist.is_initialized()


def lost() -> bool:
    """Whether another process was found to have ended."""
    return _lost


@contextlib.contextmanager
def _together() -> Iterator[None]:
    global _lost
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _lost = True
        raise PeerError("another process of this run has ended") from error


def mine(items: Iterable[Item]) -> Iterator[Item]:
    """Every N-th of these, as cards are dealt: this process's share."""
    return itertools.islice(items, rank(), None, count())


def dealt(items: Iterable[Item], weight: Callable[[Item], int]) -> list[Item]:
    """This process's share, about as heavy as any other's: each of these goes to who has least so far."""
    loads, own = [0] * count(), []
    for item in items:
        lightest = loads.index(min(loads))
        loads[lightest] += weight(item)
        if lightest == rank():
            own.append(item)
    return own


def my_rows(total: int) -> slice:
    """This process's share of ``total`` rows: consecutive, and of equal size but for one row."""
    return slice(total * rank() // count(), total * (rank() + 1) // count())


def sum_(tensors: Iterable[torch.Tensor]) -> None:
    """Adds up each tensor over all processes, in place. All end with the same bits."""
    if count() == 1:
        return
    kinds: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    with _together(), torch.no_grad():
        for bucket in itertools.chain.from_iterable(map(_buckets, kinds.values())):
            flat = _flat(bucket)
            dist.all_reduce(flat)
            pieces = flat.split([tensor.numel() for tensor in bucket])
            for tensor, piece in zip(bucket, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))


def _flat(bucket: Sequence[torch.Tensor]) -> torch.Tensor:
    try:
        return torch.cat([tensor.reshape(-1) for tensor in bucket])
    except torch.OutOfMemoryError as error:  # the others are adding up already: this is not to be tried again
        raise StoppedError(
            "the device's memory does not hold what is summed; try a lower runtime.micro_batch"
        ) from error


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(t.nbytes for t in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def copy_main_(tensors: Iterable[torch.Tensor]) -> None:
    """Gives each tensor the main process's values, in place."""
    if count() > 1:
        with _together(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, 0)
                tensor.copy_(whole)


def whole_rows(rows: torch.Tensor, places: slice | np.ndarray, total: int) -> torch.Tensor:
    """All ``total`` rows, of which this process has ``rows``, at these places of the first axis."""
    if count() == 1:
        return rows
    kind = torch.uint8 if rows.dtype == torch.bool else rows.dtype
    whole = torch.zeros(total, *rows.shape[1:], dtype=kind, device=rows.device)
    whole[places] = rows.to(kind)
    sum_([whole])  # the others' are zeros: exact
    return whole.to(rows.dtype)


def by_parts(
    make: Callable[[Sequence[range]], Mapping[str, torch.Tensor]], total: int, size: int
) -> dict[str, torch.Tensor]:
    """What ``make`` gives for ``total`` rows: it takes parts of ``size`` and gives tensors of their rows in order.

    Each process makes its share of the parts, and all get the whole.
    """
    parts = [range(start, min(start + size, total)) for start in range(0, total, size)]
    if count() == 1:
        return dict(make(parts))
    own = list(mine(parts))
    made = dict(make(own)) if own else {}
    forms = next(form for form in gather({n: (v.dtype, v.shape[1:]) for n, v in made.items()}) if form)
    places = np.concatenate([np.array(part) for part in own]) if own else np.zeros(0, dtype=np.int64)
    empty = {name: torch.empty(0, *shape, dtype=dtype) for name, (dtype, shape) in forms.items()}
    return {name: whole_rows(made.get(name, empty[name]), places, total) for name in forms}


def gather(value: Item) -> list[Item]:
    """Every process's small value, by its number."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    with _together():
        dist.all_gather_object(found, value)
    return found


def in_rounds(results: Iterable[Item]) -> Iterator[Item]:
    """All processes' results, each as soon as every process has its next one."""
    own = iter(results)
    while found := [value for value in gather(next(own, None)) if value is not None]:
        yield from found


@contextlib.contextmanager
def one_memory() -> Iterator[None]:
    """Out of memory in one process inside is out of memory in all, so that all try again together."""
    if count() == 1:
        yield
        return
    failed = None
    try:
        yield
    except torch.OutOfMemoryError as error:
        failed = error
    if largest(failed is not None):
        raise failed or torch.OutOfMemoryError("another process is out of memory")


def largest(number: int) -> int:
    """The largest of all processes' numbers: a flag that one raises is seen by all at the same place."""
    if count() == 1:
        return number
    value = torch.tensor(number)  # on the CPU: nobody waits for a GPU
    with _together():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def barrier() -> None:
    """Waits until all are here: what any has written before, all can read after."""
    largest(0)


def on_main(make: Callable[[], Result]) -> Result:
    """What ``make`` gives, or raises, on the main process, on all of them; the others do not call it.

    Inside, the main process is alone, and collective functions may be called.
    """
    global _alone
    if count() == 1:
        return make()
    answer: list[Any] = [None, None]
    if is_main():
        _alone = True
        try:
            answer[0] = make()
        except Exception as error:
            answer[1] = error if _travels(error) else RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            _alone = False
    with _together():
        dist.broadcast_object_list(answer, 0)
    if answer[1] is not None:
        raise answer[1]
    result: Result = answer[0]
    return result


def _travels(error: Exception) -> bool:
    with contextlib.suppress(Exception):
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    return False
