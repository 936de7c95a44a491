"""The doctor's report as a self-contained HTML page: no scripts, fonts or links.

In: `DoctorReport`. Out: an HTML file with the pictures embedded. They are the user's and are stored in this file only.
"""

from __future__ import annotations

import base64
import html
import os
from pathlib import Path

import numpy as np

from ...constants import MOTION_FPS
from ...utils.atomic_write import atomic_write
from .report import GREEN, GREY, GROUPS, RED, YELLOW, Check, DoctorReport, printable

_LIGHT_LABELS = {GREEN: "good", YELLOW: "could be better", RED: "cannot be used", GREY: "not known"}
_TITLES = {"picture": "Picture", "face": "Face", "movement": "Movement", "sound": "Sound"}
_UNITS = {
    "head turn": "degrees, positive to the person's left",
    "nod": "degrees, positive down",
    "mouth opening": "distances between the eyes",
    "tracking error": "of 512 pixels",
}
_PLOT_SIZE = (600, 96)  # width and height of a plot in SVG units
_MAX_POINTS = 600  # most points of a curve

_CSS = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --text: #1b1f24; --soft: #59626d; --line: #d9dee4;
  --green: #1a7f37; --yellow: #9a6700; --red: #c22532; --grey: #6e7781; --curve: #2463c2; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --card: #1e2328; --text: #e8ebee; --soft: #a5afb9;
  --line: #39414a; --green: #4cc26b; --yellow: #dfae3a; --red: #ff7b78; --grey: #9aa4ae; --curve: #7cb0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; color: var(--soft); }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
.verdict { display: flex; gap: 1.1rem; align-items: center; background: var(--card); border: 1px solid var(--line);
  border-radius: .8rem; padding: 1.1rem 1.2rem; }
.verdict p { margin: .2rem 0 0; font-size: 1.2rem; font-weight: 600; }
.verdict small { color: var(--soft); font-size: .9rem; }
.lamp { flex: none; display: grid; gap: .35rem; padding: .5rem; border-radius: .9rem; background: #22272e; }
.lamp i { width: 1.35rem; height: 1.35rem; border-radius: 50%; background: #4a525b; }
.lamp i.red { background: #ff5a56; } .lamp i.yellow { background: #ffc533; } .lamp i.green { background: #3fd46b; }
ul { list-style: none; margin: 0; padding: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: .8rem; }
li { display: grid; grid-template-columns: 1.7rem minmax(0, 1fr); padding: .8rem 1.1rem;
  border-top: 1px solid var(--line); }
li:first-child { border-top: 0; }
.sign { font-weight: 700; line-height: 1.5; }
.green .sign { color: var(--green); } .yellow .sign { color: var(--yellow); }
.red .sign { color: var(--red); } .grey .sign { color: var(--grey); }
h3 { font-size: 1rem; margin: 0; display: inline; }
.state { font-size: .85rem; margin-left: .4rem; }
.green .state { color: var(--green); } .yellow .state { color: var(--yellow); }
.red .state { color: var(--red); } .grey .state { color: var(--grey); }
li p { margin: .15rem 0 0; }
.advice { color: var(--soft); }
.strip { display: grid; grid-template-columns: repeat(4, minmax(0, 6.5rem)); gap: .5rem; margin-top: .6rem; }
.strip figure { margin: 0; }
.strip img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; border-radius: .4rem;
  background: #0002; }
.strip figcaption { font-size: .78rem; color: var(--soft); }
.plot { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: .8rem 1.1rem;
  margin: 0 0 .7rem; }
.plot figcaption { display: flex; flex-wrap: wrap; gap: 0 .6rem; }
.plot figcaption span { color: var(--soft); font-size: .88rem; }
.plot svg { display: block; width: 100%; height: 6rem; margin-top: .3rem; }
.plot polyline { fill: none; stroke: var(--curve); stroke-width: 1.6; vector-effect: non-scaling-stroke;
  stroke-linejoin: round; }
.plot line { stroke: var(--line); vector-effect: non-scaling-stroke; }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .78rem; }
footer { margin-top: 2rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 30rem) { main { padding: .8rem .6rem 2rem; } li { padding: .7rem .8rem; }
  .verdict { padding: .9rem; } .verdict p { font-size: 1.05rem; } }
"""
_SIGNS = {GREEN: "\N{CHECK MARK}", YELLOW: "!", RED: "\N{MULTIPLICATION X}", GREY: "?"}


def write_page(report: DoctorReport, path: str | os.PathLike) -> Path:
    """Writes the report as an HTML page and returns its path. The file is written atomically.

    Raises:
        ValueError: `path` is a folder. FileNotFoundError: its folder does not exist. OSError: it cannot be written.
    """
    with atomic_write(path) as partial:
        partial.write_text(render_page(report), encoding="utf-8")
    return Path(path)


def render_page(report: DoctorReport) -> str:
    """The page as HTML text."""
    name, light = _text(report.name), report.light
    wrong = [check for color in (RED, YELLOW) for check in report.checks if check.light == color]
    sections = {"To improve": wrong}
    for group in GROUPS:
        sections[_TITLES[group]] = [check for check in report.checks if check.group == group and check not in wrong]
    body = "".join(_section(title, checks, report.pictures) for title, checks in sections.items() if checks)
    plots = "".join(_plot(title, values) for title, values in report.series.items() if np.isfinite(values).sum() > 1)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{name}: {_LIGHT_LABELS[light]}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<div class="verdict">
{_traffic_light(light)}
<div><h1>{name}</h1><p>{_text(report.verdict)}</p><small>{report.seconds:.1f} s were examined.</small></div>
</div>
{body}
{f"<h2>Over time</h2>{plots}" if plots else ""}
<footer>Made by <code>emotag doctor</code> on this computer; the pictures are stored only in this file.</footer>
</main>
</body>
</html>
"""


def _text(value: str) -> str:
    return html.escape(printable(value), quote=True)


def _traffic_light(light: str) -> str:
    lamps = "".join(f"<i{f' class={name}' if name == light else ''}></i>" for name in (RED, YELLOW, GREEN))
    return f'<div class="lamp" role="img" aria-label="Traffic light: {light}">{lamps}</div>'


def _section(title: str, checks: list[Check], pictures: dict[tuple[int, bool], bytes]) -> str:
    rows = "".join(_row(check, pictures) for check in checks)
    return f"<section><h2>{title}</h2><ul>{rows}</ul></section>"


def _row(check: Check, pictures: dict[tuple[int, bool], bytes]) -> str:
    advice = f'<p class="advice">{_text(check.advice)}</p>' if check.advice else ""
    shown = [(frame, pictures[frame, check.whole]) for frame in check.frames if (frame, check.whole) in pictures]
    strip = "".join(_picture(check.name, frame, jpeg) for frame, jpeg in shown)
    return (
        f'<li class="{check.light}"><div class="sign" aria-hidden="true">{_SIGNS[check.light]}</div><div>'
        f'<h3>{_text(check.name.capitalize())}</h3><span class="state">{_LIGHT_LABELS[check.light]}</span>'
        f"<p>{_text(check.finding)}</p>{advice}{f'<div class=strip>{strip}</div>' if strip else ''}</div></li>"
    )


def _picture(name: str, frame: int, jpeg: bytes) -> str:
    when = f"{frame / MOTION_FPS:.2f} s"
    data = base64.b64encode(jpeg).decode("ascii")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{_text(name)}, the picture at {when}" '
        f'width="160" height="160"><figcaption>{when}</figcaption></figure>'
    )


def _plot(title: str, values: np.ndarray) -> str:
    """A curve over time, with gaps where values are NaN."""
    values = np.asarray(values, dtype=np.float64)
    width, height = _PLOT_SIZE
    low, high = np.nanmin(values), np.nanmax(values)
    span = max(high - low, 1e-9)
    every = max(1, len(values) // _MAX_POINTS)
    x = np.arange(len(values))[::every] * width / max(1, len(values) - 1)
    y = height - 4 - (values[::every] - low) / span * (height - 8)
    known = np.isfinite(y)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    lines = "".join(
        f'<polyline points="{" ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in range(a, b))}"/>'
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    )
    label = f"{title}: from {low:.3g} to {high:.3g}"
    return (
        f'<figure class="plot"><figcaption><strong>{_text(title.capitalize())}</strong>'
        f"<span>{low:.3g} to {high:.3g} {_text(_UNITS.get(title, ''))}</span></figcaption>"
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{_text(label)}">'
        f'<line x1="0" y1="{height - 1}" x2="{width}" y2="{height - 1}"/>{lines}</svg>'
        f'<div class="axis"><span>0 s</span><span>{len(values) / MOTION_FPS:.1f} s</span></div></figure>'
    )


__all__ = ["render_page", "write_page"]
