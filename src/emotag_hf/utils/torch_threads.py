"""Restricts torch to one thread while the rasteriser runs: one frame's tensors are too small to gain from more.

In: nothing. Out: a context. Idle torch threads busy-wait on the cores that the rasteriser's kernels need, which made
steps two to five times as slow.
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
    # The setting is global to the process: the first thread to enter saves it, the last one to leave restores it.
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
