"""Error of the tracker on rendered clips with exactly known motion.

    EMOTAG_TEST_DATA=/path/to/recordings python benchmarks/bench_tracking_truth.py [--clips folder] [--seconds 5]
        [--directions]

Renders the clips of `conversion_scripts/render_ict_clips` (or reads those of an earlier run in `--clips`), tracks them
from the pictures and prints one line for each: rotation error in degrees (median / 95th percentile / max, after
subtracting the constant rotation between the two head models), that constant rotation, the rotation error of a pose
fitted with the *true* face to the detected landmarks (the part of the error that landmark detection causes), landmark
error in pixels at 512, and Pearson's r of each coefficient.

With `--directions` further clips move each expression coefficient alone, seen from 5, 15 and 30 degrees to the side and
15 below. For each: `shape`, the regression slope of the fitted head's landmarks on the true ones (1 is correct, 0.6
means 60 % of the movement) and r; `own`, slope and r of the coefficient with the same name; and `seen`, the slope of
MediaPipe's landmarks on the true ones, which limits what a fit to them can reach.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from emotag_hf import HeadTrack, ParametricHead
from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.export.motion_files import JAW_OPEN
from emotag_hf.preprocessing.tracking.fit import fit_head
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.video.video_reader import read_video

SCRIPT = Path(__file__).parents[1] / "conversion_scripts" / "render_ict_clips"
sys.path.insert(0, str(SCRIPT))
from motion import directions  # noqa: E402
from truth import Report, Truth, compare  # noqa: E402

SHORT = {
    "jawOpen": "jaw", "mouthSmile": "smile", "mouthSmile_L": "smileL", "mouthSmile_R": "smileR", "eyeBlink_L": "blinkL",
    "eyeBlink_R": "blinkR", "browInnerUp": "brow", "gaze_left": "gazeX", "gaze_up": "gazeY",
}  # fmt: skip


def degrees(values: np.ndarray) -> str:
    """median / 95th percentile / max."""
    return "/".join(f"{v:.1f}" for v in np.percentile(values, [50, 95, 100]))


def line(name: str, report: Report, seconds: float) -> str:
    """One row of the table."""
    r = " ".join(f"{report.correlation.get(key, float('nan')):6.2f}" for key in SHORT)
    return (
        f"{name:11s} {report.valid:4d}/{report.frames:<4d} {degrees(report.rotation):>13s} {report.offset:6.1f} "
        f"{degrees(report.landmark_rotation):>13s} {np.median(report.landmarks):5.1f} "
        f"{np.median(report.centred_landmarks):5.1f} {r} {seconds:6.1f}"
    )


def strengths(track: HeadTrack, truth: Truth, head: ParametricHead) -> dict[str, tuple[float, ...]]:
    """Coefficient -> slope and r of the landmarks that it moves, slope and r of the coefficient itself, slope of
    the detected landmarks."""
    motion = track.motion
    with torch.no_grad():
        face = {"expression": motion.expression, "jaw_pose": motion.jaw_pose, "eyelids": motion.eyelids}
        ours = head.landmarks(head(shape=track.shape[None], **face).vertices).double().numpy()
    theirs, names = truth.points.astype(np.float64), [n for n in truth.curves if truth.curves[n].max() > 0.5]
    rest = np.max([truth.curves[n] for n in names], 0) < 0.02
    found = {}
    for name, group in directions(tuple(names)).items():
        curve = truth.curves[group[0]]
        frames = curve > 0.02
        moved = theirs[frames] - theirs[rest].mean(0)
        moving = np.linalg.norm(moved, axis=-1).max(0)
        some = moving > 0.25 * moving.max()
        a, b = (ours[frames] - ours[rest].mean(0))[:, some, :2].ravel(), moved[:, some, :2].ravel()
        own = _coefficient_curve(track, name)
        seen = _detected_slope(track, truth, frames, rest, some)
        slope = np.nan if own is None else np.polyfit(curve, own, 1)[0]
        r = np.nan if own is None else np.corrcoef(curve, own)[0, 1]
        found[name] = float(a @ b / (b @ b)), float(a @ b / np.sqrt((a @ a) * (b @ b))), float(slope), float(r), seen
    return found


def _detected_slope(track: HeadTrack, truth: Truth, frames: np.ndarray, rest: np.ndarray, some: np.ndarray) -> float:
    """Slope of the detected landmarks' movement on the true movement, in pixels, with the true pose in both."""
    still = replace(truth, points=np.broadcast_to(truth.points[rest].mean(0), truth.points.shape))
    moved = (truth.pixels() - still.pixels())[frames][:, some]
    error = track.landmarks[:, :468, :2].numpy() - truth.pixels()
    change = error[frames][:, some] - error[rest][:, some].mean(0)
    return float(1 + (moved * change).sum() / (moved**2).sum())


def _coefficient_curve(track: HeadTrack, name: str) -> np.ndarray | None:
    """The track's coefficient for one of ICT-FaceKit's names, averaged over both sides."""
    motion = track.motion
    if name == "jawOpen":
        return motion.jaw_pose[:, 0].numpy() / JAW_OPEN
    if name == "eyeBlink":
        return motion.eyelids.mean(1).numpy()
    sides = [i for i, n in enumerate(EXPRESSION_NAMES) if n.removesuffix("_L").removesuffix("_R") == name]
    return motion.expression[:, sides].mean(1).numpy() if sides else None


def print_directions(results: dict[str, dict[str, tuple[float, ...]]]) -> None:
    """Prints a row per coefficient and a column per view: means over people."""
    views = list(dict.fromkeys(name.split("_")[-1] for name in results))
    print(f"\n{'direction':18s}" + "".join(f"{v + ': shape (r) own (r) seen':>36s}" for v in views))
    for direction in next(iter(results.values())):
        row = f"{direction:18s}"
        for view in views:
            values = np.mean([r[direction] for name, r in results.items() if name.endswith(view)], 0)
            row += f"{values[0]:16.2f} ({values[1]:.2f}) {values[2]:.2f} ({values[3]:.2f}) {values[4]:.2f}"
        print(row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder with rendered clips; default: render them")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--directions", action="store_true", help="also clips that move each coefficient alone")
    args = parser.parse_args()
    folder = args.clips
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            data = os.environ.get("EMOTAG_TEST_DATA")
            if not data:
                print("skipped: set EMOTAG_TEST_DATA to the folder of recordings, which holds ICT-FaceKit")
                return 0
            folder = Path(temporary)
            archive = Path(data) / "data" / "heads" / "ict_facekit_f16.npz"
            command = [sys.executable, str(SCRIPT), "--ict", str(archive), "-o", str(folder)]
            command += ["--directions"] if args.directions else []
            subprocess.run([*command, "--seconds", str(args.seconds)], check=True)
        print(
            f"{'clip':11s} {'valid':9s} {'rotation, deg':>13s} {'const.':>6s} {'from the true':>13s} "
            f"{'lmk px':>11s} {' '.join(f'{v:>6s}' for v in SHORT.values())} {'fit s':>6s}"
        )
        each, head = {}, ParametricHead.from_asset()
        for clip in sorted(path.parent for path in folder.glob("*/truth.safetensors")):
            video = read_video(clip / "clip.mp4")
            landmarks = track_landmarks(video.frames(fps=25.0), video.width, video.height, fps=25.0)
            began = time.perf_counter()
            track = fit_head(landmarks)
            took = time.perf_counter() - began
            if clip.name.startswith("each_"):
                each[clip.name] = strengths(track, Truth.load(clip / "truth.safetensors"), head)
                continue
            print(line(clip.name, compare(track, Truth.load(clip / "truth.safetensors")), took), flush=True)
        if each:
            print_directions(each)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
