"""Renders clips of synthetic ICT-FaceKit people with known motion: ground truth for the tracker.

    python conversion_scripts/render_ict_clips --ict ict_facekit_f16.npz -o runs/ict_clips

Writes a folder for each clip with `clip.mp4` (h264, 25 fps, no sound) and `truth.safetensors` (rotation and translation
of the head, ICT's coefficients, gaze, camera, and where MediaPipe's points are; `truth.py` reads it). ICT-FaceKit is
under the MIT licence. About twelve seconds of one core for each clip of five seconds. With `--directions` also clips
in which every direction of the face is raised by itself, seen from 5, 15 and 30 degrees aside and 15 below (14 s each).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ict_face import IctFace
from motion import FPS, one_by_one, perform
from people import PEOPLE
from scene import Scene
from tqdm import tqdm
from truth import Truth

from emotag_hf.rendering.cameras import Camera
from emotag_hf.video.video_writer import VideoWriter


@dataclass(frozen=True)
class Clip:
    """Who (index of `PEOPLE`), which motion (seed), and the lens: focal length in widths, metres to the head."""

    person: int
    seed: int
    focal: float = 4.0
    distance: float = 1.4

    def camera(self, size: int) -> Camera:
        return Camera.portrait(size, target=(0, -0.035, 0), distance=self.distance, focal=self.focal * size)


CLIPS = {
    "ruddy": Clip(0, 101),
    "tan": Clip(1, 102),
    "dark": Clip(2, 103),
    "fair": Clip(3, 104),
    "short_lens": Clip(2, 105, focal=3.0, distance=1.05),
}


# Name -> who, and degrees of yaw and pitch from which every direction is seen by itself.
DIRECTIONS = {
    f"each_{person}_{name}": (Clip(person, 200 + person), yaw, pitch)
    for person in (1, 3)
    for name, yaw, pitch in (("yaw05", 5, 0), ("yaw15", 15, 0), ("yaw30", 30, 0), ("pitch15", 0, 15))
}


def render(
    face: IctFace, clip: Clip, folder: Path, seconds: float, size: int, view: tuple[float, float] | None = None
) -> None:
    """Writes one clip and its truth; with a `view` (degrees of yaw and pitch) every direction by itself."""
    scene = Scene(face, PEOPLE[clip.person])
    if view is None:
        performance = perform(round(seconds * FPS), clip.seed)
    else:
        performance = one_by_one(face.names, *np.radians(view), clip.seed)
    performance = scene.fitted(performance)
    camera = clip.camera(size)
    folder.mkdir(parents=True, exist_ok=True)
    with VideoWriter(folder / "clip.mp4", size, size, FPS) as writer:
        for frame in tqdm(scene.frames(performance, camera), folder.name, len(performance), unit="frame"):
            writer.write(frame)
    curves = dict(zip(face.names, performance.coefficients(face.names).T, strict=True))
    points = scene.landmarks(performance)
    truth = Truth(performance.rotation, performance.translation, curves, performance.gaze, camera, points, FPS)
    truth.save(folder / "truth.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ict", type=Path, required=True, help="ICT-FaceKit light as npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=list(CLIPS), help="which; default: all")
    parser.add_argument("--directions", action="store_true", help="also every direction by itself")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=512, help="pixels, width and height")
    args = parser.parse_args()
    face = IctFace.load(args.ict)
    for name in args.clips:
        render(face, CLIPS[name], args.output / name, args.seconds, args.size)
    for name, (clip, *view) in DIRECTIONS.items() if args.directions else ():
        render(face, clip, args.output / name, args.seconds, args.size, tuple(view))


if __name__ == "__main__":
    main()
