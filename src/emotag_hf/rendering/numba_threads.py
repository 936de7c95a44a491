"""Thread pool and reusable buffers of the CPU rasteriser.

Kernels release the GIL, so ordinary Python threads run them side by side. Each call hands its parts to idle workers
and does the first part itself. Unlike Numba's `prange` this is safe from several Python threads at once on every
platform, never spins, and halves the compile time.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_MAX_DEFAULT_THREADS = 16
_ALIGNMENT = 64  # bytes: one cache line, one 16-wide float vector
_KEPT_WORKSPACES = 4

_num_threads: int | None = None


def _default_threads() -> int:
    value = os.environ.get("NUMBA_NUM_THREADS", "")
    if value.isdigit() and int(value) > 0:
        return int(value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(cores, _MAX_DEFAULT_THREADS)


def get_num_threads() -> int:
    """Threads that each rasterisation uses: `set_num_threads`, else NUMBA_NUM_THREADS, else the cores (at most 16)."""
    return _num_threads if _num_threads is not None else _default_threads()


def set_num_threads(count: int | None) -> None:
    """Sets the threads of each rasterisation for the whole process; None goes back to the default.

    Images and gradients are bit-identical for any count.

    Raises:
        ValueError: if `count` is not a positive whole number.
    """
    global _num_threads
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"count must be a positive whole number of threads or None; got {count!r}.")
    _num_threads = count


class _Worker:
    """A daemon thread that runs one call at a time."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[Callable[[int], None], int, queue.SimpleQueue]] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="emotag-raster", daemon=True).start()

    def submit(self, work: Callable[[int], None], part: int, done: queue.SimpleQueue) -> None:
        self._inbox.put((work, part, done))

    def _loop(self) -> None:
        while True:
            work, part, done = self._inbox.get()
            error: BaseException | None = None
            try:
                work(part)
            except Exception as caught:  # handed to the caller, who raises it
                error = caught
            del work  # an idle worker must not keep the caller's arrays alive
            done.put(error)


class _WorkerPool:
    """A pool of idle workers; new ones are made when none is idle."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._process = os.getpid()

    def take(self, count: int) -> list[_Worker]:
        if self._process != os.getpid():  # after a fork the threads do not exist
            self._idle, self._process = [], os.getpid()
        taken: list[_Worker] = []
        while len(taken) < count:
            try:
                taken.append(self._idle.pop())
            except IndexError:
                taken.append(_Worker())
        return taken

    def give_back(self, workers: Sequence[_Worker]) -> None:
        self._idle.extend(workers)


_pool = _WorkerPool()


def run_parts(work: Callable[[int], None], parts: int) -> None:
    """Calls `work(0)` to `work(parts - 1)` in parallel and returns when all are done; the first error is raised."""
    if parts == 1:
        work(0)
        return
    workers = _pool.take(parts - 1)
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    errors: list[BaseException | None] = []
    for part, worker in enumerate(workers, start=1):
        worker.submit(work, part, done)
    try:
        work(0)
    finally:
        errors = [done.get() for _ in workers]
        _pool.give_back(workers)
    for error in errors:
        if error is not None:
            raise error


def split(count: int, parts: int, part: int) -> tuple[int, int]:
    """The half-open range of `count` items that belongs to `part` of `parts`."""
    size = -(-count // parts)
    return min(count, part * size), min(count, (part + 1) * size)


class Workspace:
    """Named scratch buffers that grow and are reused, because fresh megabytes cost page faults in every frame."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def capacity(self, name: str, dtype: Any) -> int:
        """Items of `dtype` that `name` holds without growing."""
        buffer = self._buffers.get(name)
        return 0 if buffer is None else buffer.nbytes // np.dtype(dtype).itemsize

    def array(self, name: str, shape: int | tuple[int, ...], dtype: Any, keep: int = 0) -> np.ndarray:
        """A C-contiguous array that starts on a cache line. Valid until the next call with `name`.

        Its contents are arbitrary except the first `keep` items, which are kept from the previous call.
        """
        size = (shape if isinstance(shape, int) else math.prod(shape)) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < size:
            raw = np.empty(size + size // 4 + 2 * _ALIGNMENT, np.uint8)
            offset = -raw.ctypes.data % _ALIGNMENT
            grown = raw[offset:]
            if keep and buffer is not None:
                kept = keep * np.dtype(dtype).itemsize
                grown[:kept] = buffer[:kept]
            buffer = self._buffers[name] = grown
        return buffer[:size].view(dtype).reshape(shape)


class WorkspaceLease:
    """Holds one workspace for as long as it lives: an autograd context owns its lease, so contexts never share."""

    _free: list[Workspace] = []

    def __init__(self) -> None:
        try:
            self.workspace = WorkspaceLease._free.pop()
        except IndexError:
            self.workspace = Workspace()

    def __del__(self, free: list[Workspace] = _free) -> None:  # bound now: globals may be gone at exit
        if len(free) < _KEPT_WORKSPACES:
            free.append(self.workspace)
