"""Accuracy of the estimated offset between sound and video, on real talking clips.

    python benchmarks/report_av_offset.py CLIP.mp4 [CLIP.mp4 ...] [--reference OFFSETS.json] [--seed 0]

A clip without a sound track takes the wav beside it. Prints four tables:

1. each clip's offset (frames at 25 fps, positive: the sound comes late), confidence, and the difference between the
   estimates of its two halves;
2. moved: the sound is shifted by known amounts of up to 5 frames; the estimate should change by the same amount;
3. pieces: estimates on parts of some seconds against those on the whole clip, by length and by confidence;
4. foreign: how often the sound of another clip is called reliable.

`--reference` is a JSON of `{"clip name": frames}` measured by other means; the line of best fit against it is printed,
with its sign and zero free.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from emotag_hf.audio.audio_io import read_audio
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.preprocessing.features.av_offset import AVOffset, compare_mouths, measure_mouth, predict_mouth
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.video.video_reader import read_video

MOVES = (-5, -4, -3, -2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2, 3, 4, 5)
LONGEST = 500  # frames of a clip whose sound is moved
PIECES = (2, 3, 5, 8)  # seconds
CONFIDENCES = (0.0, 0.5, 0.8, 0.9, 0.97, 1.001)


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What is seen of a clip's mouth `[T, 4]`, and its samples."""
    clip = read_video(path)
    samples = clip.audio.mono() if clip.has_audio else read_audio(path.with_suffix(".wav"))
    points = track_landmarks(clip.frames(25), clip.width, clip.height).points
    return measure_mouth(points.astype(np.float64)), samples


def moved(samples: np.ndarray, frames: float) -> np.ndarray:
    """The same sound, later by so many frames."""
    count = round(frames * 640)
    return np.pad(samples, (count, 0)) if count > 0 else samples[-count:]


def report_clips(seen: dict, heard: dict, whole: dict[str, AVOffset]) -> None:
    print(f"{'clip':40s} {'s':>6s} {'frames':>7s} {'confidence':>10s} {'':8s} {'corr':>5s}  halves apart")
    gaps = []
    for name, offset in whole.items():
        middle = len(seen[name]) // 2
        halves = [compare_mouths(seen[name][part], heard[name][part]) for part in (slice(middle), slice(middle, None))]
        gap = ""
        if all(half.reliable for half in halves):
            gaps.append(abs(halves[0].frames - halves[1].frames))
            gap = f"{gaps[-1]:.2f}"
        word = "reliable" if offset.reliable else ""
        print(
            f"{name[:40]:40s} {len(seen[name]) / 25:6.1f} {offset.frames:7.2f} {offset.confidence:10.3f} {word:8s} "
            f"{offset.correlation:5.2f}  {gap}"
        )
    if gaps:
        print(f"halves of {len(gaps)} clips: {np.mean(gaps):.2f} frames apart on average, {np.max(gaps):.2f} at most\n")


def report_moved(seen: dict, speech: dict, predict) -> None:
    rows = []
    for name in seen:
        mouth, samples = seen[name][:LONGEST], speech[name][: LONGEST * 640]
        plain = compare_mouths(mouth, predict(samples))
        for move in MOVES:
            found = compare_mouths(mouth, predict(moved(samples, move)))
            rows.append((plain.reliable, found.reliable, abs(found.frames - plain.frames - move)))
    for title, rows_of in (
        ("all clips", rows),
        ("reliable before moving", [r for r in rows if r[0]]),
        ("reliable before and after", [r for r in rows if r[0] and r[1]]),
    ):
        error = np.array([row[2] for row in rows_of])
        if len(error):
            print(
                f"moved, {title}: {len(error)} trials, mean error {error.mean():.3f} frames, "
                f"{100 * np.mean(error <= 0.5):.1f} % within half a frame, largest {error.max():.2f}"
            )
    print()


def report_pieces(seen: dict, heard: dict, whole: dict[str, AVOffset]) -> None:
    rows = []
    for seconds in PIECES:
        size = seconds * 25
        for name, offset in whole.items():
            if not offset.reliable or len(seen[name]) < 2 * size:
                continue
            for start in range(0, len(seen[name]) - size + 1, size):
                part = slice(start, start + size)
                found = compare_mouths(seen[name][part], heard[name][part])
                rows.append((seconds, found.confidence, abs(found.frames - offset.frames)))
    table = np.array(rows)
    for seconds in PIECES:
        error = table[table[:, 0] == seconds, 2]
        if len(error):
            print(
                f"pieces of {seconds} s: {len(error):4d}, {100 * np.mean(error <= 1.5):5.1f} % within 1.5 frames, "
                f"median error {np.median(error):.2f}, mean {error.mean():.2f}"
            )
    for low, high in zip(CONFIDENCES, CONFIDENCES[1:], strict=False):
        some = table[(table[:, 1] >= low) & (table[:, 1] < high)]
        if len(some):
            right = 100 * np.mean(some[:, 2] <= 1.5)
            print(
                f"confidence {low:.2f} to {min(high, 1):.2f}: {len(some):4d} pieces, {right:5.1f} % within 1.5 frames, "
                f"mean confidence {100 * some[:, 1].mean():.1f} %"
            )
    print()


def report_foreign(seen: dict, heard: dict, seed: int) -> None:
    random, names = np.random.default_rng(seed), list(seen)
    for seconds in (3, 5, 8):
        size, reliable, trials = seconds * 25, 0, 0
        long = [name for name in names if len(seen[name]) >= size]
        for _ in range(500 if len(long) > 1 else 0):
            one, other = random.choice(long, 2, replace=False)
            at = [int(random.integers(0, min(len(seen[n]), len(heard[n])) - size + 1)) for n in (one, other)]
            found = compare_mouths(seen[one][at[0] : at[0] + size], heard[other][at[1] : at[1] + size])
            reliable, trials = reliable + found.reliable, trials + 1
        if trials:
            print(f"foreign sound, {seconds} s: {100 * reliable / trials:.1f} % of {trials} called reliable")
    print()


def report_reference(whole: dict[str, AVOffset], path: Path) -> None:
    reference = json.loads(path.read_text(encoding="utf-8"))
    both = [(reference[name], whole[name].frames) for name in reference if name in whole and whole[name].reliable]
    theirs, ours = np.array(both, dtype=float).T
    sign = -1.0 if np.corrcoef(theirs, ours)[0, 1] < 0 else 1.0
    zero = float(np.mean(ours - sign * theirs))
    rest = ours - sign * theirs - zero
    print(
        f"reference: {len(both)} reliable clips, r {np.corrcoef(theirs, ours)[0, 1]:.3f}, sign {sign:+.0f}, zero "
        f"{zero:+.2f} frames, mean distance {np.abs(rest).mean():.2f}, largest {np.abs(rest).max():.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--reference", type=Path, help="JSON of offsets measured by other means")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    head = ParametricHead.from_asset()
    shape = torch.zeros(head.num_shape)

    def predict(samples: np.ndarray) -> np.ndarray:
        return predict_mouth(samples, head, shape)

    loaded = {path.stem: load(path) for path in args.clips}
    seen = {name: mouth for name, (mouth, _) in loaded.items()}
    speech = {name: samples for name, (_, samples) in loaded.items()}
    heard = {name: predict(samples) for name, samples in speech.items()}
    whole = {name: compare_mouths(seen[name], heard[name]) for name in seen}
    report_clips(seen, heard, whole)
    report_moved(seen, speech, predict)
    report_pieces(seen, heard, whole)
    report_foreign(seen, heard, args.seed)
    if args.reference:
        report_reference(whole, args.reference)


if __name__ == "__main__":
    main()
