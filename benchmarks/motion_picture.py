"""Renders the animation at the top of the README and of the model cards: an animated WebP that plays in a loop.

    python benchmarks/motion_picture.py [speech.wav] [-o docs/demo.webp] [--size 360] [--fps 12.5] [--sheet frames.png]

The demo person speaks the package's sample while the camera moves to both sides and the emotion changes by keyframes.
Camera and emotion end where they began, so that the loop has no visible jump. `--sheet` also writes every fourth frame
into one image, to check the quality. WebP instead of GIF, whose 256 colours show bands on skin.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from emotag_hf import EmoTaGPipeline, sample_path
from emotag_hf.audio.audio_io import load_audio

SECONDS = 6.0
EMOTIONS = [  # reached at `time`, held until `until`
    {"time": 0.0, "until": 0.5, "emotion": "neutral"},
    {"time": 1.0, "until": 2.0, "emotion": "happy"},
    {"time": 2.5, "until": 3.4, "emotion": "surprise"},
    {"time": 4.0, "until": 5.0, "emotion": "angry"},
    {"time": 5.6, "until": 6.0, "emotion": "neutral"},
]
YAW = np.deg2rad(28)  # of the camera to both sides
LIMIT = 2_000_000  # bytes


def camera_yaw(time: float) -> float:
    """Radians of the camera at `time` seconds: from the front to one side, to the other, and back to the front."""
    return float(YAW * np.sin(2 * np.pi * time / SECONDS))


@torch.no_grad()
def render_frames(audio: str, size: int, fps: float, seed: int) -> list[Image.Image]:
    """The first `SECONDS` of `audio`, spoken by the demo person; square frames of `size` pixels."""
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    clip = load_audio(audio)
    samples = clip.samples[: round(SECONDS * clip.sampling_rate)]
    speech = {"array": samples, "sampling_rate": clip.sampling_rate}
    motion = pipe(speech, emotion=EMOTIONS, fps=fps, seed=seed, head_motion=0.6, output_type="motion").motion
    frames = []
    for i in range(len(motion)):
        camera = pipe.model.camera(size, yaw=camera_yaw(i / fps))
        picture = pipe.model.render(pipe.model.pose(motion[i : i + 1]), camera).images[0]
        frames.append(Image.fromarray((picture.numpy() * 255 + 0.5).astype(np.uint8)))
    return frames


def contact_sheet(frames: list[Image.Image], columns: int = 6) -> Image.Image:
    """The frames side by side."""
    width, height = frames[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(frames) // columns) * height), "white")
    for i, frame in enumerate(frames):
        sheet.paste(frame, ((i % columns) * width, (i // columns) * height))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="?", help="a recording of 6 s and more (default: the package's sample)")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parents[1] / "docs" / "demo.webp")
    parser.add_argument("--size", type=int, default=360, help="pixels (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=12.5, help="frames per second (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=90, help="of the WebP, 0 to 100 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="of head motion, blinks and gaze (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, help="also write every fourth frame, as the WebP stores it, as one image")
    args = parser.parse_args()
    frames = render_frames(args.audio or sample_path(), args.size, args.fps, args.seed)
    duration = round(1000 / args.fps)  # of a frame, in milliseconds
    frames[0].save(
        args.output, save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=args.quality, method=6
    )
    size = args.output.stat().st_size
    print(f"{args.output}: {len(frames)} frames of {duration} ms, {args.size} x {args.size}, {size / 1e6:.2f} MB")
    if args.sheet:
        with Image.open(args.output) as stored:
            chosen = range(0, stored.n_frames, 4)
            contact_sheet([frame_of(stored, i) for i in chosen]).save(args.sheet)
    if size >= LIMIT:
        raise SystemExit(f"{args.output}: expected less than {LIMIT / 1e6:g} MB; lower --quality, --size or --fps.")


def frame_of(stored: Image.Image, index: int) -> Image.Image:
    """Frame `index` of an animation, as it is shown."""
    stored.seek(index)
    return stored.convert("RGB")


if __name__ == "__main__":
    main()
