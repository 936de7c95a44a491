"""Writes a processed clip atomically, and keeps finished stages after an interruption.

In: the stages of `data.prepare`, one after the other. Out: the clip's folder. Work in progress is in `<name>.partial`
next to it, with the finished stages in state.json; it is renamed when it is complete.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...rights.provenance import package_version
from ...utils.import_utils import is_available
from .clip import CLIP_JSON, FILES, FORMAT, FORMAT_VERSION, ClipError, ProcessedClip

logger = logging.getLogger(__name__)

LANDMARKS = "landmarks.safetensors"  # in source pixels, for later stages; not part of the clip
_STATE, _LOCK = "state.json", "lock"
_OURS = frozenset({*FILES, CLIP_JSON, _STATE, _STATE + ".new", _LOCK, LANDMARKS})
_STATE_FORMAT = "emotag-clip-state"


class ClipWriter:
    """Writes one clip; use it as a context manager.

    Args:
        target: the clip's folder, or a link to it. Only an empty folder or, with `overwrite`, a processed clip may be
            there already.
        request: JSON values of everything on which the clip depends. Finished stages of an earlier attempt are kept if
            its request was the same, else deleted.
        overwrite: replace an existing processed clip.

    After an error the work is kept for the next attempt if a stage was finished and the error is not caused by the
    input (a ValueError); else it is deleted. Files that are not part of the format are never deleted.

    Raises:
        ClipError: `target` holds something else or is not writable, or another process is writing it.
    """

    def __init__(self, target: str | os.PathLike, request: dict[str, Any], overwrite: bool = False):
        self.target = _real(target)
        self.partial = self.target.with_name(self.target.name + ".partial")
        self.request = json.loads(json.dumps(request))
        self.overwrite = overwrite
        self._stages: dict[str, Any] = {}

    def existing(self) -> ProcessedClip | None:
        """The existing clip at `target` if it has the same request; None if it has to be made.

        Raises:
            ClipError: something else is there.
        """
        if not self.target.exists():
            return None
        if not self.target.is_dir():
            raise ClipError(f"output: expected a folder or nothing, but {self.target} is a file; choose another name.")
        if _is_empty(self.target):
            return None
        is_clip = (self.target / CLIP_JSON).is_file()
        if self.overwrite or not is_clip:
            strangers = _strangers(self.target)
            if strangers or not is_clip:
                found = ", ".join(strangers[:3]) or f"no {CLIP_JSON}"
                raise ClipError(
                    f"output: {self.target} is not a processed clip and nothing else (it holds {found}); "
                    "choose another folder."
                )
            return None
        try:
            clip = ProcessedClip.open(self.target)
            if clip.info.get("request") == self.request:
                return clip
            differs = "was made from another video or with other options"
        except ClipError as error:
            differs = f"is damaged ({error})"
        raise ClipError(
            f"output: the clip in {self.target} {differs}; choose another folder, or replace it with overwrite=True "
            "(--overwrite)."
        )

    def __enter__(self) -> ClipWriter:
        check_output(self.target, overwrite=True)
        if self.partial.exists():
            if not self.partial.is_dir() or _strangers(self.partial):
                raise ClipError(f"output: {self.partial} is in the way: it was not made by this program; move it.")
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.target, error) from error
        self._lock = _lock(self.partial / _LOCK)
        state = _read_state(self.partial / _STATE)
        if state.get("request") == self.request and state.get("version") == package_version():
            self._stages = state["stages"]
            if self._stages:
                logger.info("%s: going on after %s.", self.target.name, ", ".join(self._stages))
        else:
            if state:
                logger.warning("%s: unfinished work on another video or with other options is discarded.", self.partial)
            for name in _OURS - {_LOCK}:
                (self.partial / name).unlink(missing_ok=True)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is not None and (not self._stages or issubclass(kind, ValueError)):
            _remove(self.partial)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, name: str) -> Path:
        """Path for a stage's file; `name` is one of the format."""
        if name not in _OURS:
            raise ValueError(f"name: expected one of {sorted(_OURS)}, got {name!r}.")
        return self.partial / name

    def done(self, stage: str) -> bool:
        """Whether a stage is finished, by this or an earlier attempt."""
        return stage in self._stages

    def info(self, stage: str) -> Any:
        """The values that `finish` stored for a stage."""
        return self._stages[stage]

    def finish(self, stage: str, info: Any = None, files: tuple[str, ...] = ()) -> None:
        """Records that a stage is done, with JSON values for later stages, after its files were synced to disk."""
        for name in files:
            _sync(self.path(name))
        self._stages[stage] = json.loads(json.dumps(info))
        state = {"format": _STATE_FORMAT, "version": package_version(), "request": self.request, "stages": self._stages}
        new = self.partial / (_STATE + ".new")
        new.write_text(json.dumps(state), encoding="utf-8")
        _sync(new)
        os.replace(new, self.partial / _STATE)

    def publish(self, info: dict[str, Any]) -> ProcessedClip:
        """Writes clip.json and renames the folder. `info` is clip.json without format, request and files."""
        files = {name: (self.partial / name).stat().st_size for name in FILES if (self.partial / name).is_file()}
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        content = head | info | {"request": self.request, "files": files}
        (self.partial / CLIP_JSON).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        _sync(self.partial / CLIP_JSON)
        mode = (self.partial / CLIP_JSON).stat().st_mode & 0o777
        for name in files:  # safetensors makes files private
            if (self.partial / name).stat().st_mode & 0o777 != mode:
                with suppress(PermissionError):  # drives without modes
                    os.chmod(self.partial / name, mode)
        ProcessedClip.open(self.partial)  # checks the clip before it is published
        old = None
        if self.target.exists():
            self.existing()  # it may have been created in the meantime
            old = self.target.with_name(f"{self.target.name}.old-{secrets.token_hex(4)}")
            os.rename(self.target, old)
        try:
            os.rename(self.partial, self.target)
        except OSError:
            if old is not None:
                os.rename(old, self.target)
            raise
        _sync(self.target.parent)
        if old is not None:
            _remove(old)
        for name in (_STATE, LANDMARKS, _LOCK):  # only now: until the renaming they are needed to resume
            (self.target / name).unlink(missing_ok=True)
        return ProcessedClip.open(self.target)


def check_output(target: str | os.PathLike, overwrite: bool = False) -> None:
    """Raises ClipError if no clip can be written at `target`. Call it before any work; it changes nothing."""
    try:
        target = _real(target)
        if (target / CLIP_JSON).is_file() and not overwrite:
            return  # an existing clip may be in a read-only place
        target.with_name(target.name + ".partial").exists()
        parent = next(folder for folder in target.parents if folder.exists())
    except OSError as error:  # the name is too long, or the folder is not readable
        raise _unwritable(Path(target), error) from error
    if not parent.is_dir():
        raise ClipError(f"output: expected a folder, but {parent} is a file, so {target} cannot be made in it.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ClipError(f"output: nothing can be written in {parent}; choose another folder.")


def _unwritable(target: Path, error: OSError) -> ClipError:
    return ClipError(f"output: {target} cannot be written ({error.strerror}); choose another folder.")


def _real(target: str | os.PathLike) -> Path:
    """The path of the clip, with links resolved."""
    path = Path(target).absolute()
    if not path.is_symlink():
        return path
    if not path.exists():
        raise ClipError(f"output: {path} is a link to nothing; delete it or choose another folder.")
    return Path(os.path.realpath(path))


def _strangers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in _OURS or not entry.is_file())


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _remove(folder: Path) -> None:
    """Deletes our files in a folder, and the folder if nothing else is in it."""
    for name in _OURS:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(state, dict) and state.get("format") == _STATE_FORMAT and isinstance(state.get("stages"), dict)
    return state if whole else {}


def _sync(path: Path) -> None:
    """Syncs a file or folder to disk, so that a finished stage survives a power cut."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> int | None:
    """Takes a file lock that ends with the process; None on systems without such locks (Windows)."""
    if not is_available("fcntl"):
        return None
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ClipError(f"output: another process is preparing {path.parent.stem}; wait for it.") from error
    except OSError:  # a network drive without locks
        os.close(handle)
        return None
    return handle


__all__ = ["LANDMARKS", "ClipWriter", "check_output"]
