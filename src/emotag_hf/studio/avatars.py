"""Loads the chosen avatar: the demo person, the visitor's own, or a public one from the Hub.

In: a choice. Out: a loaded `EmoTaGPipeline`; the last few are kept.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from ..hub.hub_transfer import fetch
from ..hub.repo_contents import check_repo_id
from ..pipelines.pipeline_emotag import EmoTaGPipeline
from .uploads import UploadError
from .visitors import Visitor

DEMO, MINE, FROM_HUB = "Demo person", "My avatar", "From the Hub"
_KEPT = 4  # pipelines in memory: about 100 MB each


class Avatars:
    """Loads avatars and caches the last few.

    Args:
        download: `repo_id -> folder`; None downloads public repositories, never with this machine's own token.
    """

    def __init__(self, download: Callable[[str], str] | None = None):
        self._download = download or (lambda repo_id: fetch(repo_id, token=False))
        self._loaded: OrderedDict[tuple, EmoTaGPipeline] = OrderedDict()
        self._lock = threading.Lock()

    def demo(self) -> EmoTaGPipeline:
        """The embedded synthetic person."""
        return self._load(None)

    def of(self, choice: str, repo_id: str | None, visitor: Visitor) -> EmoTaGPipeline:
        """The pipeline of a visitor's choice.

        Args:
            choice: `DEMO`, `MINE` or `FROM_HUB`.
            repo_id: `"user/name"`, with `FROM_HUB`.

        Raises:
            UploadError: they have no avatar yet, or the name is not a valid repository name.
            ValueError, OSError: the repository does not exist, is not public, or holds no complete avatar.
        """
        if choice == DEMO:
            return self.demo()
        if choice == MINE:
            if not visitor.avatar.is_dir():
                raise UploadError(f'You have no avatar yet: make one under "Make an avatar", or choose "{DEMO}".')
            return self._load(visitor.avatar)
        if choice != FROM_HUB:
            raise UploadError(f"Choose {DEMO}, {MINE} or {FROM_HUB}.")
        name = (repo_id or "").strip()
        if "/" not in name:
            raise UploadError("Name the avatar as it is named on the Hub: user/name.")
        if os.path.exists(check_repo_id(name)):  # visitors must not choose folders of this machine
            raise UploadError(f"There is no public avatar {name} on the Hub.")
        return self._load(Path(self._download(name)))

    def _load(self, folder: Path | None) -> EmoTaGPipeline:
        # The cache key has the time of change, because an avatar may be replaced.
        key = (folder, None if folder is None else (folder / "model.safetensors").stat().st_mtime_ns)
        with self._lock:  # two visitors who want the same do not load it twice
            if key not in self._loaded:
                pipe = EmoTaGPipeline.from_pretrained(folder)
                pipe.set_progress_bar_config(disable=True)  # the page has bars of its own
                self._loaded[key] = pipe
            self._loaded.move_to_end(key)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[key]


__all__ = ["DEMO", "FROM_HUB", "MINE", "Avatars"]
