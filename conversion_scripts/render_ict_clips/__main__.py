"""Renders clips of synthetic ICT-FaceKit people with known motion: ground truth for the tracker.

    python conversion_scripts/render_ict_clips --ict ict_facekit_f16.npz -o runs/ict_clips

Writes a folder for each clip with `clip.mp4` (h264, 25 fps, no sound) and `truth.safetensors` (rotation and translation
of the head, ICT's coefficients, gaze, camera, and where MediaPipe's points are; `truth.py` reads it). ICT-FaceKit is
under the MIT licence. About twelve seconds of one core for each clip of five seconds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ict_face import IctFace
from motion import FPS, perform
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


def render(face: IctFace, clip: Clip, folder: Path, seconds: float, size: int) -> None:
    """Writes one clip and its truth."""
    scene = Scene(face, PEOPLE[clip.person])
    performance = scene.fitted(perform(round(seconds * FPS), clip.seed))
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
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=512, help="pixels, width and height")
    args = parser.parse_args()
    face = IctFace.load(args.ict)
    for name in args.clips:
        render(face, CLIPS[name], args.output / name, args.seconds, args.size)


if __name__ == "__main__":
    main()
