"""Prepares many videos: in parallel processes, in shards for several machines, resumable.

In: videos. Out: a folder of processed clips and a result for each. A failure does not stop the others.
"""

from __future__ import annotations

import glob
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from .prepare import prepare

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class PrepareResult:
    """The result for one video.

    Args:
        source: the video.
        path: its clip's folder.
        error: why there is no clip, in one sentence; None if there is one.
        warnings: the clip's warnings.
        seconds: how long it took; nearly 0 if the clip existed already.
    """

    source: Path
    path: Path
    error: str | None
    warnings: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return self.error is None


def prepare_many(
    sources: str | os.PathLike | Iterable[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    progress: bool | None = None,
    **options: Any,
) -> list[PrepareResult]:
    """Prepares many videos, each into a folder of its name in `output_dir`. A second run continues where the first
    stopped.

    Args:
        sources: a folder of videos, a pattern such as `"clips/*.mp4"`, or paths.
        output_dir: folder of the clips; created if it does not exist.
        workers: parallel processes with one thread each. With more than one, a script must call this under `if __name__
            == "__main__":`.
        shard: `(i, n)`: only every n-th video, sorted by name, starting with the i-th (from 0), for n machines that
            share the work.
        progress: True and False show and hide the bar; None shows it on a terminal.
        options: of [`prepare`], the same for all videos.

    Returns:
        One result for each video of the shard, in order. They hold the errors; a failed video does not raise.

    Raises:
        FileNotFoundError: no videos. ValueError: an invalid shard or number of workers; two videos with the same name.
            TypeError: an option that `prepare` does not have.
    """
    from tqdm.auto import tqdm

    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {index}/{count}.")
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}.")
    if unknown := sorted({*options} - {*_option_names()}):
        raise TypeError(f"prepare_many: unknown option {', '.join(unknown)}; expected {', '.join(_option_names())}.")
    output_dir = Path(output_dir)
    jobs = [(path, output_dir / name, options) for path, name in clip_names(find_videos(sources))][index::count]
    run = _one_by_one if workers == 1 else _side_by_side
    disable = None if progress is None else not progress
    results: list[Any] = [None] * len(jobs)
    with tqdm(total=len(jobs), desc="prepare", unit="clip", disable=disable) as bar:
        for number, result in run(jobs, workers):
            results[number] = result
            bar.update()
            logger.log(
                logging.INFO if result.ok else logging.ERROR, "%s: %s", result.source, result.error or result.path
            )
    failed = Counter(result.ok for result in results)[False]
    logger.info("%d of %d videos prepared, %d failed.", len(results) - failed, len(results), failed)
    return results


def find_videos(sources: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """The videos that `sources` stands for, sorted by name. Raises FileNotFoundError if there are none."""
    if isinstance(sources, str | os.PathLike):
        text = os.fspath(sources)
        if os.path.isdir(text):
            found = [p for p in Path(text).iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
        elif os.path.isfile(text):
            found = [Path(text)]
        else:
            found = [Path(name) for name in glob.glob(text, recursive=True)]
    else:
        found = [Path(name) for name in sources]
    if not found:
        raise FileNotFoundError(f"sources: expected a folder of videos, a pattern or paths, found none in {sources!r}.")
    return sorted(set(found), key=lambda path: (path.name, str(path)))


def clip_names(paths: list[Path]) -> list[tuple[Path, str]]:
    """The clip's name for each video: the file name without suffix, or with it if two would be equal.

    Raises:
        ValueError: two videos of one name, in different folders.
    """
    stems = Counter(path.stem for path in paths)
    named = [(path, path.stem if stems[path.stem] == 1 else path.name.replace(".", "_")) for path in paths]
    names = Counter(name for _, name in named)
    if doubles := [str(path) for path, name in named if names[name] > 1]:
        raise ValueError(f"sources: expected videos of different names, got {', '.join(doubles[:4])}; rename them.")
    return named


def _option_names() -> tuple[str, ...]:
    named = prepare.__kwdefaults__ or {}
    return tuple(name for name in named if name not in ("progress", "audio"))


_Job = tuple[Path, Path, dict[str, Any]]


def _prepare_one(job: _Job) -> PrepareResult:
    source, path, options = job
    warnings: tuple[str, ...] = ()
    start, error = time.perf_counter(), None
    try:
        warnings = tuple(prepare(source, path, progress=False, **options).warnings)
    except Exception as reason:  # it must not stop the other videos
        error = " ".join(f"{reason}".split()) or type(reason).__name__
        logger.debug("%s", source, exc_info=True)
    return PrepareResult(source, path, error, warnings, time.perf_counter() - start)


def _one_by_one(jobs: list[_Job], workers: int) -> Iterator[tuple[int, PrepareResult]]:
    for number, job in enumerate(jobs):
        yield number, _prepare_one(job)


def _side_by_side(jobs: list[_Job], workers: int) -> Iterator[tuple[int, PrepareResult]]:
    """Starts a process for each video, so that a crash (out of memory, a broken decoder) affects no other."""
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))[::-1]
    running: dict[int, tuple[Any, Any]] = {}
    try:
        with _one_thread_each():
            while waiting or running:
                while waiting and len(running) < workers:
                    number, job = waiting.pop()
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(sender, job), name=f"prepare {job[0].name}")
                    process.start()
                    sender.close()
                    running[number] = (process, receiver)
                connection.wait([receiver for _, receiver in running.values()])
                for number in [n for n, (_, receiver) in running.items() if receiver.poll()]:
                    process, receiver = running.pop(number)
                    yield number, _received(process, receiver, jobs[number])
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _work(sender: Any, job: _Job) -> None:
    import torch

    torch.set_num_threads(1)
    sender.send(_prepare_one(job))


def _received(process: Any, receiver: Any, job: _Job) -> PrepareResult:
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        error = f"its process ended with exit code {process.exitcode}; out of memory?"
        return PrepareResult(job[0], job[1], error, (), 0.0)
    finally:
        receiver.close()
        process.join()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Environment for child processes: libraries read these variables when they are loaded."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


__all__ = ["PrepareResult", "clip_names", "find_videos", "prepare_many"]
