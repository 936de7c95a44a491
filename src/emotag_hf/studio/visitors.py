"""Visitors: a temporary folder for each, deleted when they leave, and a way to stop their jobs.

In: a key of a visitor's session. Out: `Visitor`. Folder names do not contain the key.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Stopped(Exception):
    """The visitor stopped it, or left."""


@dataclass(frozen=True)
class Job:
    """A running job of a visitor; it is stopped by deleting its file.

    A file works across processes, and is deleted with the visitor's folder.

    Args:
        path: of the file.
    """

    path: Path

    @property
    def is_stopped(self) -> bool:
        return not self.path.exists()

    def stop(self) -> None:
        self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises Stopped if it was stopped."""
        if self.is_stopped:
            raise Stopped


@dataclass
class Visitor:
    """The state of one visitor.

    Args:
        folder: their folder.
        job: their current or last job.
        video: the last video that they uploaded to make an avatar of.
        sha256: SHA-256 of the video.
        said: their last speech, as the page stores it.
        seen: time of their last activity.
        gone: whether they have left.
    """

    folder: Path
    job: Job | None = None
    video: Path | None = None
    sha256: str | None = None
    said: Any = None
    seen: float = 0.0
    gone: bool = False

    @property
    def avatar(self) -> Path:
        """Path of their avatar, if they made one."""
        return self.folder / "avatar"

    def begin(self) -> Job:
        """Starts a new job and stops the previous one."""
        self.stop()
        file = tempfile.NamedTemporaryFile(prefix="job-", dir=self.folder, delete=False)
        file.close()
        self.job = Job(Path(file.name))
        return self.job

    def stop(self) -> None:
        if self.job is not None:
            self.job.stop()


class Visitors:
    """All visitors.

    Args:
        keep_s: seconds without activity after which a visitor has left.
        root: parent of their folders; None for a new temporary folder.
    """

    def __init__(self, keep_s: float = 3600.0, root: Path | None = None):
        self._own = None if root else tempfile.TemporaryDirectory(prefix="emotag-visitors-", ignore_cleanup_errors=True)
        self.root = Path(self._own.name if root is None else root)
        self.keep_s = keep_s
        self._here: dict[str, Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._here)

    def of(self, key: str) -> Visitor:
        """The visitor of a session, created at the first call."""
        now = time.monotonic()
        with self._lock:
            gone = [other for other, v in self._here.items() if now - v.seen > self.keep_s and other != key]
            if key not in self._here:
                self._here[key] = Visitor(Path(tempfile.mkdtemp(prefix="visitor-", dir=self.root)))
            visitor = self._here[key]
            visitor.seen = now
        for other in gone:
            self.leave(other)
        return visitor

    def leave(self, key: str) -> None:
        """Stops what runs for a visitor and deletes their files."""
        with self._lock:
            visitor = self._here.pop(key, None)
        if visitor is not None:
            visitor.gone = True
            visitor.stop()
            shutil.rmtree(visitor.folder, ignore_errors=True)

    def close(self) -> None:
        """Removes all visitors."""
        for key in list(self._here):
            self.leave(key)
        if self._own is not None:
            self._own.cleanup()


__all__ = ["Job", "Stopped", "Visitor", "Visitors"]
