"""The doctor's report: checks with a traffic light each, and an overall light.

In: checks. Out: a dict for programs, text for a terminal; `page.write_page` makes the HTML page.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

GREEN, YELLOW, RED, GREY = "green", "yellow", "red", "grey"  # grey: not known
LIGHTS = (GREY, GREEN, YELLOW, RED)  # in order of severity
GROUPS = ("picture", "face", "movement", "sound")
FORMAT, FORMAT_VERSION = "emotag-doctor", 1

_DOTS = {GREEN: "32", YELLOW: "33", RED: "31", GREY: "90"}  # ANSI colours


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Args:
        name: what was checked; group: one of `GROUPS`.
        value: the measured number, in `unit`; None if there is none.
        light: "green" good; "yellow" usable, but could be better; "red" cannot be used for adaptation; "grey" could not
            be measured.
        finding: what was found; advice: what to do about it, or "". Both are shown to users.
        frames: numbers of a few frames (25 fps) that show it.
        whole: whether thumbnails show the whole picture, not only the head.
    """

    name: str
    group: str
    value: float | None
    unit: str
    light: str
    finding: str
    advice: str = ""
    frames: tuple[int, ...] = ()
    whole: bool = False


@dataclass
class DoctorReport:
    """The doctor's results for a clip.

    Args:
        name: of the file.
        checks: in the order of `GROUPS`.
        seconds: that were examined.
        offset: `{"frames", "seconds", "confidence", "reliable"}` of the sound, positive if it is late; or None.
        series: name -> `[T]` over the frames at 25 fps for plots, NaN where unknown: yaw and pitch (degrees), mouth
            opening (in eye distances), error (pixels of 512).
        pictures: JPEG thumbnails of the checks' frames, by frame number and whether they show the whole frame (else the
            head); not in `to_dict`.
    """

    name: str
    checks: list[Check]
    seconds: float
    offset: dict[str, Any] | None = None
    series: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: dict[tuple[int, bool], bytes] = field(default_factory=dict)

    @property
    def light(self) -> str:
        """The worst light of all checks. Adaptation refuses "red" clips."""
        return max((check.light for check in self.checks), key=LIGHTS.index, default=GREY)

    @property
    def verdict(self) -> str:
        """The overall result in a sentence."""
        named = lambda light: ", ".join(check.name for check in self.checks if check.light == light)  # noqa: E731
        if self.light == RED:
            return f"This clip cannot be used as it is, because of: {named(RED)}."
        if self.light == YELLOW:
            return f"This clip can be used. It could be better in: {named(YELLOW)}."
        return "This clip is good."

    def to_dict(self) -> dict[str, Any]:
        """JSON values: everything but the series and pictures."""
        numbers = [{"value": _number(check.value), "frames": list(check.frames)} for check in self.checks]
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "light": self.light,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "offset": self.offset,
            "checks": [asdict(check) | number for check, number in zip(self.checks, numbers, strict=True)],
        }


def render_text(report: DoctorReport, color: bool = False, width: int = 100) -> str:
    """The report for a terminal, `width` columns wide; with `color`, the lights are coloured dots (ANSI)."""

    def mark(light: str) -> str:
        return f"\x1b[{_DOTS[light]}m\N{BLACK CIRCLE}\x1b[0m" if color else f"[{light}]".ljust(8)

    indent = " " * (2 if color else 9)
    name = printable(report.name)
    lines = [f"{mark(report.light)} {name}: {report.verdict}", ""]
    for check in report.checks:
        text = f"{check.name}: {check.finding}"
        wrapped = textwrap.wrap(text, max(20, width - len(indent))) or [""]
        lines.append(f"{mark(check.light)} {wrapped[0]}")
        lines += [indent + line for line in wrapped[1:]]
        if check.advice:
            more = indent + "  "
            lines += [more + line for line in textwrap.wrap(check.advice, max(20, width - len(more)))]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Replaces control characters, so that a file name cannot send commands to the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def graded(value: float, good: float, limit: float) -> str:
    """Green at `good` or better, red beyond `limit`, yellow between. Larger is better if `good > limit`."""
    if good > limit:
        value, good, limit = -value, -good, -limit
    return GREEN if value <= good else YELLOW if value <= limit else RED


def worse(*lights: str) -> str:
    """The most severe light."""
    return max(lights, key=LIGHTS.index)


def spread_out(frames, count: int = 4) -> tuple[int, ...]:
    """At most `count` of the frame numbers, evenly spaced."""
    frames = np.asarray(frames)
    if len(frames) > count:
        frames = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return tuple(int(i) for i in frames)


def percent(share: float) -> str:
    """A share as text; small shares above 0 are not rounded to 0."""
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


__all__ = ["Check", "DoctorReport", "render_text"]
