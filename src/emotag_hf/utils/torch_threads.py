"""Keeps torch's threads asleep where the rasteriser works: tensors of a frame are too small for them.

In: nothing. Out: a context. Torch's threads spin while they wait, on the cores that the rasteriser's kernels need;
steps took two to five times as long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_inside = {"count": 0, "threads": 1}


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread for as long as the block runs; blocks may nest, and run in several threads."""
    # The setting is the process's: the first of several threads in here saves it, the last one restores it.
    with _lock:
        if _inside["count"] == 0:
            _inside["threads"] = torch.get_num_threads()
        _inside["count"] += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside["count"] -= 1
            if _inside["count"] == 0:
                torch.set_num_threads(_inside["threads"])


__all__ = ["one_torch_thread"]
