"""Statistics of generated head motion, blinks, gaze and brows compared with real clips.

    python benchmarks/bench_generated_motion.py CLIP... [--out DIR] [--seeds 5]

CLIP are folders of processed clips with sound, without duplicates. The generators get the sound of each clip at its
stored offset, so that both columns have the same windows and pauses; the tracker's gaze noise is added to generated
gaze. Prints a table of rates and medians over clips; `--out` gets it as Markdown, with plots of blink intervals, head
spectra and gaze paths. Then it times ten minutes of motion.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from motion_statistics import FPS, Sequence, blinks, gaze_jitter, measure, with_jitter
from PIL import Image, ImageDraw

from emotag_hf import ProcessedClip
from emotag_hf.audio.loudness import loudness_from_samples
from emotag_hf.constants import SAMPLE_RATE
from emotag_hf.motion.motion_generator import generate_upper_face

SHORTEST = 3.0  # minimum length of a clip, seconds
REAL, MADE = (40, 90, 200), (210, 90, 20)


def real_sequence(path: str) -> Sequence | None:
    """A clip's track with its loudness at the stored offset; None for a short or silent one."""
    clip = ProcessedClip.open(path)
    if clip.audio is None or clip.num_frames < SHORTEST * FPS or not bool(clip.valid.all()):
        return None
    frames = np.arange(clip.num_frames)
    loudness = loudness_from_samples(clip.audio.mono(SAMPLE_RATE), SAMPLE_RATE, frames / FPS)
    late = clip.audio_offset.frames if clip.audio_offset.reliable else 0.0
    return Sequence.of(clip.track.motion, np.interp(frames + late, frames, loudness))


def generated_sequence(like: Sequence, seed: int, jitter: np.ndarray) -> Sequence:
    upper = generate_upper_face(np.arange(len(like)) / FPS, like.loudness, seed)
    return with_jitter(Sequence.of(upper, like.loudness), jitter, seed)


def table(real: dict[str, float], made: dict[str, float]) -> str:
    lines = ["| measure | real clips | generated |", "|---|---:|---:|"]
    return "\n".join(lines + [f"| {name} | {real[name]:.2f} | {made[name]:.2f} |" for name in real])


class Plot:
    """Lines over axes, drawn with Pillow."""

    def __init__(self, title: str, x: tuple[float, float], y: tuple[float, float], size: tuple[int, int] = (640, 400)):
        self.image = Image.new("RGB", size, "white")
        self.draw = ImageDraw.Draw(self.image)
        self.x, self.y, self.size = x, y, size
        self.draw.rectangle([50, 30, size[0] - 15, size[1] - 35], outline="black")
        self.draw.text((50, 8), title, fill="black")
        for value in np.linspace(*x, 6):
            self.draw.text((self._at(value, y[0])[0] - 8, size[1] - 30), f"{value:.3g}", fill="black")
        for value in np.linspace(*y, 5):
            self.draw.text((6, self._at(x[0], value)[1] - 5), f"{value:.3g}", fill="black")

    def _at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1), (w, h) = self.x, self.y, self.size
        right, up = np.clip((x - x0) / (x1 - x0), 0, 1), np.clip((y - y0) / (y1 - y0), 0, 1)
        return 50 + right * (w - 65), h - 35 - up * (h - 65)

    def line(self, x, y, color, width: int = 2) -> None:
        self.draw.line([self._at(a, b) for a, b in zip(x, y)], fill=color, width=width)

    def legend(self, names: dict[str, tuple[int, int, int]]) -> None:
        for row, (name, color) in enumerate(names.items()):
            self.draw.text((self.size[0] - 150, 36 + 14 * row), name, fill=color)


def intervals(sequences: list[Sequence]) -> np.ndarray:
    return np.concatenate([np.diff(blinks(s.lids)[0]) / FPS for s in sequences])


def spectrum(sequences: list[Sequence], axis: int, hz: np.ndarray) -> np.ndarray:
    """Median over sequences of the amplitude density, degrees per root hertz, at `hz`; Hann window."""
    rows = []
    for seq in (s for s in sequences if len(s) >= 4 * FPS):
        values = seq.angles[:, axis] - seq.angles[:, axis].mean()
        window = np.hanning(len(values))
        power = 2 * np.abs(np.fft.rfft(values * window)) ** 2 / (window**2).sum() / FPS
        rows.append(np.interp(hz, np.fft.rfftfreq(len(values), 1 / FPS), power))
    return np.sqrt(np.median(rows, 0))


def draw(real: list[Sequence], made: list[Sequence], folder: Path) -> None:
    legend = {"real clips": REAL, "generated": MADE}
    edges = np.linspace(0, 8, 17)
    counts = [np.histogram(intervals(s), edges, density=True)[0] for s in (real, made)]
    plot = Plot("Seconds between blinks, density", (0, 8), (0, max(map(np.max, counts))))
    for count, color in zip(counts, legend.values()):
        plot.line(np.repeat(edges, 2)[1:-1], np.repeat(count, 2), color)
    plot.legend(legend)
    plot.image.save(folder / "blink_intervals.png")

    hz = np.exp(np.linspace(np.log(0.25), np.log(10), 40))
    sheet = Image.new("RGB", (640 * 3, 400))
    for axis, name in enumerate(("pitch", "yaw", "roll")):
        title = f"Head {name}: log10 of degrees per root Hz over log10 of Hz"
        plot = Plot(title, (np.log10(0.25), 1), (-2.5, 1))
        for sequences, color in zip((real, made), legend.values()):
            plot.line(np.log10(hz), np.log10(spectrum(sequences, axis, hz) + 1e-9), color)
        plot.legend(legend)
        sheet.paste(plot.image, (640 * axis, 0))
    sheet.save(folder / "head_spectrum.png")

    longest = int(np.argmax([len(s) for s in real]))
    sheet = Image.new("RGB", (480 * 2, 480))
    for column, (sequences, name) in enumerate(zip((real, made), legend)):
        seq = sequences[longest]
        eyes = (seq.gaze - np.median(seq.gaze, 0))[seq.lids - np.quantile(seq.lids, 0.3) < 0.2][:1000]
        plot = Plot(f"Gaze of {name}, degrees of yaw and pitch in the head", (-15, 15), (-15, 15), (480,) * 2)
        plot.line(eyes[:, 1], -eyes[:, 0], legend[name], 1)
        sheet.paste(plot.image, (480 * column, 0))
    sheet.save(folder / "gaze_path.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", metavar="CLIP")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    real = [s for path in args.clips if (s := real_sequence(path)) is not None]
    if not real:
        parser.error(f"CLIP: expected clips of {SHORTEST:g} s or more with sound, got none.")
    jitter = gaze_jitter(real)
    made = [generated_sequence(s, 1000 * seed + i, jitter) for seed in range(args.seeds) for i, s in enumerate(real)]
    seconds = sum(map(len, real)) / FPS
    print(f"{len(real)} clips, {seconds:.0f} s; {args.seeds} seeds; tremble of gaze {jitter.round(2)} degrees\n")
    text = table(measure(real), measure(made))
    print(text)
    if args.out:
        os.makedirs(args.out, exist_ok=True)
        (args.out / "generated_motion.md").write_text(text + "\n", encoding="utf-8")
        draw(real, made, args.out)
    loudness = np.resize(np.concatenate([s.loudness for s in real]), 15000)
    began = time.perf_counter()
    generate_upper_face(np.arange(15000) / FPS, loudness, 0)
    print(f"\nten minutes of motion: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
