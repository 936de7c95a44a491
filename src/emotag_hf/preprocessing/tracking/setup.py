"""`emotag setup tracking`: installs MediaPipe without its unneeded requirements, and downloads its blendshape model.

In: nothing. Out: packages in this environment and a model file in the cache. `requirements-tracking.txt` is the same
list for a manual installation.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

INSTALL = "emotag setup tracking"  # the command named in messages about missing MediaPipe
MEDIAPIPE = "mediapipe==0.10.21"
PROTOBUF = "protobuf>=4.25.3,<5"
REQUIREMENTS = {  # what MediaPipe needs at run time, with the reason that the user is shown
    "absl-py>=2": "MediaPipe's logging",
    "attrs>=23": "MediaPipe's data classes",
    "flatbuffers>=24": "its model files",
    "matplotlib>=3.8": "imported by its drawing module",
    "opencv-python-headless>=4.10": "imported by its drawing module",
    PROTOBUF: "its graphs; protobuf 5 and later break it",
}
PYTHONS = ((3, 11), (3, 12))  # MediaPipe's wheels (3.9 to 3.12) that this package supports

MODEL_NAME = "face_landmarker.task"
MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
MODEL_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
MODEL_ENV = "EMOTAG_FACE_LANDMARKER"
_MAX_MODEL_BYTES = 32 << 20
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_CHECK = "from emotag_hf.preprocessing.tracking.landmarks import check_mediapipe; check_mediapipe()"


class TrackingSetupError(OSError):
    """MediaPipe could not be installed here; the message says why and what to do."""


def cache_folder() -> Path:
    """The folder of downloaded files: `EMOTAG_CACHE`, or `emotag_hf` in `XDG_CACHE_HOME` or in `~/.cache`."""
    if own := os.environ.get("EMOTAG_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "emotag_hf"


def find_face_landmarker(path: str | os.PathLike | None = None) -> Path | None:
    """MediaPipe's face_landmarker.task: `path`, else `EMOTAG_FACE_LANDMARKER`, else the downloaded copy, else None.

    Raises:
        FileNotFoundError: the file named by the argument or the variable does not exist.
        ValueError: the downloaded copy is damaged.
    """
    for name, value in (("face_landmarker", path), (MODEL_ENV, os.environ.get(MODEL_ENV))):
        if value:
            if not Path(value).is_file():
                raise FileNotFoundError(f"{name}: expected MediaPipe's {MODEL_NAME}, but there is no file {value}.")
            return Path(value)
    cached = cache_folder() / MODEL_NAME
    if not cached.is_file():
        return None
    if sha256(cached) != MODEL_SHA256:
        raise ValueError(f"{MODEL_NAME}: the copy {cached} is damaged; delete it and run: {INSTALL}")
    return cached


def fetch_face_landmarker() -> Path:
    """Downloads face_landmarker.task (3.7 MB, Google, Apache-2.0) into the cache, unless an intact copy is there.

    Raises:
        OSError: no connection, no permission to write, or the download is not the expected file.
    """
    target = cache_folder() / MODEL_NAME
    if target.is_file() and sha256(target) == MODEL_SHA256:
        return target
    with urllib.request.urlopen(MODEL_URL, timeout=30) as answer:
        data = answer.read(_MAX_MODEL_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != MODEL_SHA256:
        raise OSError(f"{MODEL_URL} gave {len(data)} bytes that are not the expected file (sha256 {found}).")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{MODEL_NAME}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(data)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def setup_tracking(
    *,
    dry_run: bool = False,
    yes: bool = False,
    echo: Callable[[str], Any] = print,
    ask: Callable[[str], str] = input,
    run: Callable[..., subprocess.CompletedProcess] = subprocess.run,
) -> int:
    """Shows what the tracker needs, asks, and installs it into this Python environment.

    Args:
        dry_run: only show what would be done.
        yes: do not ask.
        echo, ask, run: how to print, to ask and to run a command.

    Returns:
        0 if everything works (or with `dry_run`), 1 if the user declined.

    Raises:
        TrackingSetupError: an unsupported Python, no pip, or an installation that failed or does not run.
    """
    _check_python()
    packages = _packages()
    commands = [
        [sys.executable, "-m", "pip", "install", *packages],
        [sys.executable, "-m", "pip", "install", "--no-deps", MEDIAPIPE],
    ]
    echo(f"The tracker needs {MEDIAPIPE} (Google, Apache-2.0), which finds the face in every frame.")
    echo("It is installed without its declared requirements: numpy<2 and jax conflict with other packages here, and")
    echo("MediaPipe runs without them. `pip check` will complain about that. It needs these packages:")
    for requirement in packages:
        echo(f"  {requirement:32} {REQUIREMENTS[requirement]}")
    for sentence in _protobuf_conflicts():
        echo(sentence)
    echo(f"Then {MODEL_NAME} (3.7 MB, Google, Apache-2.0) is downloaded into {cache_folder()}, for blendshapes.")
    for command in commands:
        echo("$ " + " ".join(_quoted(word) for word in command))
    if dry_run:
        return 0
    if not yes and not _agreed(ask):
        echo("Nothing was changed.")
        return 1
    _check_pip(run, commands)
    for command in commands:
        if run(command).returncode != 0:
            raise TrackingSetupError(f"pip failed (its message is above); the command was: {' '.join(command)}")
    if (check := run([sys.executable, "-c", _CHECK], capture_output=True, text=True)).returncode != 0:
        reason = (check.stderr or "").strip().splitlines()[-1:] or ["no message"]
        raise TrackingSetupError(f"MediaPipe is installed but does not run here: {reason[0]}")
    try:
        echo(f"MediaPipe works. {MODEL_NAME} is in {fetch_face_landmarker()}.")
    except OSError as error:
        echo(f"MediaPipe works. {MODEL_NAME} could not be fetched ({error}); only blendshapes need it.")
        echo(f"To use them, download {MODEL_URL} and set {MODEL_ENV} to the file.")
    return 0


def _check_python() -> None:
    if sys.version_info[:2] not in PYTHONS:
        known = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise TrackingSetupError(
            f"MediaPipe has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}; the tracker needs Python "
            f"{known}. Create a new environment with one of them; everything except tracking works in this one."
        )


def _packages() -> list[str]:
    """The requirements, without OpenCV if another build of it is installed: two would overwrite each other's files."""
    if any(_version(name) for name in _OPENCV[1:]):
        return [name for name in REQUIREMENTS if not name.startswith(_OPENCV[0])]
    return list(REQUIREMENTS)


def _protobuf_conflicts() -> list[str]:
    """A notice if the installed protobuf will be replaced, with the packages that need another version."""
    version, needed = _version("protobuf"), Requirement(PROTOBUF)
    if version is None or needed.specifier.contains(version, prereleases=True):
        return []
    conflicting = []
    for distribution in metadata.distributions():
        for line in distribution.requires or ():
            wanted = Requirement(line)
            if wanted.name.lower() == "protobuf" and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                if not any(wanted.specifier.contains(known) for known in ("4.25.3", "4.25.8")):
                    conflicting.append(f"{distribution.metadata['Name']} (protobuf{wanted.specifier})")
    return [
        f"protobuf {version} is here and will be replaced, since MediaPipe needs {needed.specifier}. "
        + (
            f"These packages need another version: {', '.join(sorted(set(conflicting)))}; "
            if conflicting
            else "Nothing installed minds. "
        )
        + ("use another environment for the tracker if you need them." if conflicting else "")
    ]


def _check_pip(run: Callable[..., subprocess.CompletedProcess], commands: list[list[str]]) -> None:
    if run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True).returncode == 0:
        return
    if shutil.which("uv"):
        lines = (f"uv pip install --python {sys.executable} " + " ".join(map(_quoted, c[4:])) for c in commands)
        raise TrackingSetupError(f"this environment has no pip (uv creates none); run: {' && '.join(lines)}")
    raise TrackingSetupError(f"this environment has no pip; run `{sys.executable} -m ensurepip`, then again: {INSTALL}")


def _agreed(ask: Callable[[str], str]) -> bool:
    try:
        return ask("Continue? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError as error:
        raise TrackingSetupError(f"there is no terminal to answer; to agree in advance run: {INSTALL} --yes") from error


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _quoted(word: str) -> str:
    return f'"{word}"' if any(c in word for c in "<> ") else word


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = [
    "TrackingSetupError",
    "cache_folder",
    "fetch_face_landmarker",
    "find_face_landmarker",
    "setup_tracking",
    "sha256",
]
