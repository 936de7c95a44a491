"""What the doctor hands over: checks with a traffic light each, and one for all of them.

In: checks. Out: a dict for programs, text for a terminal; `page.write_page` makes the HTML page.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

GREEN, YELLOW, RED, GREY = "green", "yellow", "red", "grey"  # grey: could not be told
LIGHTS = (GREY, GREEN, YELLOW, RED)  # from what weighs nothing to what weighs most
GROUPS = ("picture", "face", "movement", "sound")
FORMAT, FORMAT_VERSION = "emotag-doctor", 1

_DOTS = {GREEN: "32", YELLOW: "33", RED: "31", GREY: "90"}  # ANSI colours


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was looked at; group: one of `GROUPS`.
        value: the number behind it, in `unit`; None where there is none.
        light: "green" good; "yellow" works worse than it could; "red" cannot be used for adapting a head; "grey" could
            not be told.
        finding: what was found; advice: what to do about it, "" if nothing. Both in plain words.
        frames: numbers of the frames (25 fps) that show it, a few.
        whole: whether it shows in the whole picture, not in the face.
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
    """What the doctor says of a clip.

    Args:
        name: of the file.
        checks: in the order of `GROUPS`.
        seconds: that were looked at.
        offset: `{"frames", "seconds", "confidence", "reliable"}` of the sound, positive if it comes late; or None.
        series: name -> `[T]` over the frames at 25 fps for plots, NaN where unknown: yaw and pitch (degrees), mouth
            opening (in eye distances), error (pixels of 512).
        pictures: JPEGs of the frames that the checks name, by number and whether they show the whole frame (else the
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
        """The worst of all checks' lights: "red" is refused by adapting, "yellow" is not."""
        return max((check.light for check in self.checks), key=LIGHTS.index, default=GREY)

    @property
    def verdict(self) -> str:
        """The light in a sentence."""
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
    """Without control characters: a file's name must not steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def graded(value: float, good: float, limit: float) -> str:
    """Green at `good` or better, red beyond `limit`, yellow between; which side is better follows from the two."""
    if good > limit:
        value, good, limit = -value, -good, -limit
    return GREEN if value <= good else YELLOW if value <= limit else RED


def worse(*lights: str) -> str:
    """The one that weighs most."""
    return max(lights, key=LIGHTS.index)


def spread_out(frames, count: int = 4) -> tuple[int, ...]:
    """At most `count` of the frame numbers, evenly picked."""
    frames = np.asarray(frames)
    if len(frames) > count:
        frames = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return tuple(int(i) for i in frames)


def percent(share: float) -> str:
    """A share in words that round nothing to nothing."""
    return "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


__all__ = ["Check", "DoctorReport", "render_text"]
