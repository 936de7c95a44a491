"""How far the tracker is from motion that is known exactly.

    EMOTAG_TEST_DATA=/path/to/recordings python benchmarks/bench_tracking_truth.py [--clips folder] [--seconds 5]

Renders the clips of `conversion_scripts/render_ict_clips` (or reads those of an earlier run in `--clips`), tracks them
from the pictures alone and prints one line for each: rotation error in degrees (median / 95th percentile / max, after
the constant rotation between the two models was taken out), that constant, the same error for the pose that the found
landmarks give on the *true* face (what the landmarks alone are to blame for), landmark error in pixels at 512, and
Pearson's r of each coefficient.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from emotag_hf.preprocessing.tracking.fit import fit_head
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.video.video_reader import read_video

SCRIPT = Path(__file__).parents[1] / "conversion_scripts" / "render_ict_clips"
sys.path.insert(0, str(SCRIPT))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder with clips; default: render them anew")
    parser.add_argument("--seconds", type=float, default=5.0)
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
            subprocess.run([*command, "--seconds", str(args.seconds)], check=True)
        print(
            f"{'clip':11s} {'valid':9s} {'rotation, deg':>13s} {'const.':>6s} {'from the true':>13s} "
            f"{'lmk px':>11s} {' '.join(f'{v:>6s}' for v in SHORT.values())} {'fit s':>6s}"
        )
        for clip in sorted(path.parent for path in folder.glob("*/truth.safetensors")):
            video = read_video(clip / "clip.mp4")
            landmarks = track_landmarks(video.frames(fps=25.0), video.width, video.height, fps=25.0)
            began = time.perf_counter()
            track = fit_head(landmarks)
            took = time.perf_counter() - began
            print(line(clip.name, compare(track, Truth.load(clip / "truth.safetensors")), took), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
