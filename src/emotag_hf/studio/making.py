"""Makes an avatar from a visitor's video: doctor, consent, then training with progress.

In: a checked upload, answers of a form. Out: the doctor's report; `Made`s; a zip of the avatar's folder.
"""

from __future__ import annotations

import html
import queue
import shutil
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..preprocessing.data.prepare import prepare
from ..preprocessing.doctor import DoctorReport, examine
from ..preprocessing.tracking.setup import sha256
from ..rights.consent import PURPOSES, Consent
from ..rights.consent_dialogue import make_statement
from ..training.adaptation.adapt import adapt
from .settings import Settings
from .uploads import UploadError, check_video
from .visitors import Job, Stopped, Visitor

MYSELF, FOR_SOMEBODY = "I am this person", "I may decide for this person"
CONSENT_ROLES = (MYSELF, FOR_SOMEBODY)
_LIGHTS = {"green": "#2e9e5b", "yellow": "#d9a400", "red": "#d64545", "grey": "#8a8f98"}
_PREPARE_SHARE = 0.2  # share of the progress bar
_NOT_IN_NAMES = set("<>/\\{}|`")


@dataclass
class Made:
    """Progress of making an avatar.

    Args:
        stage: in plain words.
        share: of the work that is done, 0 to 1.
        preview: an image of the current avatar, if there is one.
        avatar: the finished folder, at the end.
    """

    stage: str
    share: float
    preview: Path | None = None
    avatar: Path | None = None


def look_at(path: str | None, visitor: Visitor, settings: Settings) -> DoctorReport:
    """Runs the doctor on an upload, which becomes the visitor's video if it is usable.

    Raises:
        UploadError, VideoReadError, OSError: it is refused, or not a video.
        ImportError: MediaPipe is not installed here.
    """
    visitor.video = visitor.sha256 = None
    clip = check_video(path, settings)
    report = examine(clip.path, max_seconds=settings.max_video_s)
    if report.light != "red":
        visitor.video, visitor.sha256 = clip.path, sha256(clip.path)
    return report


def report_html(report: DoctorReport) -> str:
    """The doctor's report as HTML; findings first."""
    dot = lambda light: f'<span style="color:{_LIGHTS[light]}" title="{light}">&#9679;</span>'  # noqa: E731
    order = {"red": 0, "yellow": 1, "grey": 2, "green": 3}
    telling, good = [], []
    for check in sorted(report.checks, key=lambda check: order[check.light]):
        advice = f" <em>{html.escape(check.advice)}</em>" if check.advice else ""
        text = f"{dot(check.light)} <b>{html.escape(check.name)}</b>: {html.escape(check.finding)}{advice}"
        (good if check.light == "green" else telling).append(f'<li style="list-style:none;margin:0.2em 0">{text}</li>')
    more = f"<details><summary>What is good ({len(good)})</summary><ul>{''.join(good)}</ul></details>" if good else ""
    verdict = f'<p style="font-size:1.1em">{dot(report.light)} <b>{html.escape(report.verdict)}</b></p>'
    return f'<div class="doctor">{verdict}<ul style="padding:0">{"".join(telling)}</ul>{more}</div>'


def consent_of(
    visitor: Visitor,
    name: str,
    role: str,
    purposes: Sequence[str],
    guardian: str | None = None,
    relation: str | None = None,
) -> Consent:
    """The consent from the form, for the visitor's video. The caller checks that its box was ticked.

    Args:
        name: of the person in the video.
        role: one of `CONSENT_ROLES`; with the second, `guardian` is the visitor's own name and `relation` their right
            to decide.
        purposes: words out of `PURPOSES`' values.

    Raises:
        UploadError: no video was checked, or an answer is missing.
        ConsentError: an invalid answer, such as a name with control characters.
    """
    if visitor.sha256 is None:
        raise UploadError("Let the doctor look at a video first.")
    name = _name("the person in the video", name)
    if role not in CONSENT_ROLES:
        raise UploadError("Say whether you are the person in the video.")
    chosen = tuple(key for key, words in PURPOSES.items() if words in purposes)
    if not chosen:
        raise UploadError("Say what the avatar may be used for: tick at least one purpose.")
    facts: dict[str, Any] = {
        "person": name,
        "purposes": chosen,
        "may_publish": "publication" in chosen,
        "guardian_name": _name("yourself", guardian) if role == FOR_SOMEBODY else None,
        "guardian_relation": _name("your relation to them", relation) if role == FOR_SOMEBODY else None,
    }
    statement = make_statement(clip_sha256=visitor.sha256, **facts)
    agreed_by = "guardian" if role == FOR_SOMEBODY else "person"
    return Consent(**facts, statement=statement, agreed_by=agreed_by, clip_sha256=visitor.sha256).check()


def _name(whom: str, text: str | None) -> str:
    text = (text or "").strip()
    if not text:
        raise UploadError(f"Name {whom}.")
    if len(text) > 100 or not text.isprintable() or _NOT_IN_NAMES & set(text) or not any(map(str.isalnum, text)):
        raise UploadError(f"Name {whom} in plain letters, at most 100 and without < > / \\; got {ascii(text)[:60]}.")
    return text


def make_avatar(visitor: Visitor, consent: Consent, job: Job, settings: Settings) -> Iterator[Made]:
    """Makes the visitor's avatar in a thread; yields its progress every half second.

    Raises:
        Stopped: the visitor stopped it or left.
        ValueError, OSError, ImportError: as `prepare` and `adapt`.
    """
    news: queue.Queue = queue.Queue()
    thread = threading.Thread(target=_work, args=(visitor, consent, job, settings, news), name="adapt", daemon=True)
    thread.start()
    latest = Made("Finding the face, fitting the head", 0.02)
    try:
        while True:
            try:
                item = news.get(timeout=0.5)
                while not news.empty():
                    item = news.get_nowait()
            except queue.Empty:
                item = latest
            if isinstance(item, BaseException):
                raise item
            job.check()
            latest = item
            yield latest
            if latest.avatar is not None:
                return
    finally:
        job.stop()


def _work(visitor: Visitor, consent: Consent, job: Job, settings: Settings, news: queue.Queue) -> None:
    preview = visitor.folder / "preview.png"
    preview.unlink(missing_ok=True)

    def on_step(trainer: Any) -> None:
        job.check()
        share = _PREPARE_SHARE + (0.95 - _PREPARE_SHARE) * min(1.0, trainer.progress)
        news.put(Made("Learning the face", share, preview if preview.is_file() else None))

    try:
        clip = prepare(
            visitor.video,
            visitor.folder / "clip",
            max_seconds=settings.max_video_s,
            overwrite=True,
            progress=False,
        )
        with closing(clip):
            job.check()
            news.put(Made("Looking for a good start", _PREPARE_SHARE))
            new = visitor.folder / "avatar.new"
            adapt(
                clip, new, consent=consent, arguments=settings.arguments, overwrite=True, preview=preview,
                on_step=on_step,
            )  # fmt: skip
            job.check()
        _replace(new, visitor.avatar)
        last: Any = Made("Done", 1.0, visitor.avatar / "preview.png", visitor.avatar)
    except Exception as error:  # raised again in the waiting thread
        last = Stopped() if job.is_stopped else error
    for left in visitor.folder.glob("avatar.new*"):  # of an interrupted training
        shutil.rmtree(left, ignore_errors=True)
    if visitor.gone:  # what was written after they left
        shutil.rmtree(visitor.folder, ignore_errors=True)
    news.put(last)


def _replace(new: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def zip_avatar(visitor: Visitor) -> Path:
    """The visitor's avatar as one file, for `EmoTaGPipeline.from_pretrained` after unpacking.

    Raises:
        UploadError: they have none.
    """
    if not visitor.avatar.is_dir():
        raise UploadError("There is no avatar to download yet.")
    path = visitor.folder / "my_avatar.zip"
    new = path.with_suffix(".new")
    with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:  # its weights are as small as they get
        for file in sorted(visitor.avatar.iterdir()):
            archive.write(file, f"my_avatar/{file.name}")
    new.replace(path)
    return path


__all__ = ["CONSENT_ROLES", "Made", "consent_of", "look_at", "make_avatar", "report_html", "zip_avatar"]
