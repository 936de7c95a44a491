"""Contact sheets: frames of a spoken recording, with the curves of jaw and loudness.

    python benchmarks/contact_sheet.py speech.wav [more.wav ...] -o sheets/ [--emotion happy] [--every 10]
    python benchmarks/contact_sheet.py --poses -o sheets/

For every recording: an mp4, a sheet of frames with the opening of the jaw over the loudness, and a check that the video
is as long as the sound, to a frame. `--poses` shows the avatar's expressions, blinks and turns; `person.jpg` and
`emotions.jpg` are used in README and docs.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from PIL import Image, ImageDraw

from emotag_hf import EMOTIONS, EXPRESSION_NAMES, EmoTaGPipeline, FlameMotion
from emotag_hf.audio.loudness import loudness_from_samples
from emotag_hf.video.video_reader import read_video

POSES = {
    "neutral": {},
    "open": {"jaw_pose": {0: 0.22}},
    "wide open": {"jaw_pose": {0: 0.34}},
    "smile": {"mouthSmile_L": 0.9, "mouthSmile_R": 0.9, "cheekRaiser_L": 0.5, "cheekRaiser_R": 0.5},
    "half blink": {"eyelids": {0: 0.5, 1: 0.5}},
    "blink": {"eyelids": {0: 1.0, 1: 1.0}},
    "ooo": {"mouthPucker": 0.9, "mouthFunnel": 0.3, "jaw_pose": {0: 0.05}},
    "teeth": {"mouthUpperUp_L": 0.8, "mouthUpperUp_R": 0.8, "mouthLowerDown_L": 0.8, "mouthLowerDown_R": 0.8},
    "brows": {"browInnerUp_L": 0.9, "browInnerUp_R": 0.9, "browOuterUp_L": 0.8, "browOuterUp_R": 0.8},
    "gaze left": {"eyes_pose": {1: 0.35, 4: 0.35}},
    "nod": {"rotation": {0: 0.2}, "neck_pose": {0: 0.15}},
    "tilt": {"rotation": {2: 0.15}, "neck_pose": {2: 0.15}},
}
YAWS = (-30, -15, 0, 15, 30)


def pose(values: dict) -> FlameMotion:
    motion = FlameMotion.zeros(1)
    for name, value in values.items():
        if isinstance(value, dict):
            for index, number in value.items():
                getattr(motion, name)[0, index] = number
        else:
            motion.expression[0, EXPRESSION_NAMES.index(name)] = value
    return motion


@torch.no_grad()
def render(pipe, motion: FlameMotion, size: int, yaw: float = 0.0) -> np.ndarray:
    model = pipe.model
    image = model.render(model.pose(motion), model.camera(size, yaw=np.deg2rad(yaw))).images[0]
    return (image.numpy() * 255 + 0.5).astype(np.uint8)


def tile(pictures: list[np.ndarray], labels: list[str], columns: int) -> Image.Image:
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, label) in enumerate(zip(pictures, labels)):
        x, y = (i % columns) * width, (i // columns) * (height + 14)
        sheet.paste(Image.fromarray(picture), (x, y + 14))
        draw.text((x + 3, y + 1), label, fill="black")
    return sheet


def curves(out, size: tuple[int, int]) -> Image.Image:
    """Jaw opening (blue) over the sound's loudness (grey), and blinks (red ticks)."""
    width, height = size
    jaw = out.motion.jaw_pose[:, 0].numpy()
    times = np.arange(len(jaw)) / out.fps
    loud = loudness_from_samples(out.audio.mono(16000), 16000, times)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    x = np.linspace(0, width - 1, len(jaw))
    for i in range(len(jaw)):
        draw.line([(x[i], height), (x[i], height - loud[i] * height * 0.9)], fill=(215, 215, 215))
        if out.motion.eyelids[i, 0] > 0.9:
            draw.line([(x[i], 0), (x[i], 8)], fill="red")
    draw.line([(a, height - b / 0.3 * height) for a, b in zip(x, jaw)], fill="blue", width=2)
    return sheet


def speak(pipe, path: str, folder: str, every: int, **options) -> bool:
    out = pipe(path, **options)
    stem = os.path.splitext(os.path.basename(path))[0]
    video_path = out.save(os.path.join(folder, f"{stem}.mp4"))
    video = read_video(video_path)
    pictures, count = [], 0
    for frame in video.frames():
        if count % every == 0 and len(pictures) < 40:
            pictures.append(np.asarray(Image.fromarray(frame).resize((192, 192), Image.Resampling.LANCZOS)))
        count += 1
    sheet = tile(pictures, [f"{i * every / out.fps:.1f} s" for i in range(len(pictures))], 8)
    curve = curves(out, (sheet.width, 120))
    whole = Image.new("RGB", (sheet.width, sheet.height + 120), "white")
    whole.paste(sheet, (0, 0))
    whole.paste(curve, (0, sheet.height))
    whole.save(os.path.join(folder, f"{stem}.png"))
    expected = int(np.ceil(round(out.audio.duration * out.fps, 6)))
    # Where the sound of the video starts against the recording's, by cross-correlation.
    a, b = out.audio.mono(16000), video.audio.mono(16000)
    n = min(len(a), len(b), 16000 * 8)
    spectrum = np.fft.rfft(a[:n], 2 * n).conj() * np.fft.rfft(b[:n], 2 * n)
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    lag = lag - 2 * n if lag > n else lag
    verdict = "ok" if count == expected and abs(lag) < 160 else "WRONG"
    print(f"{stem}: {out.audio.duration:.2f} s, {count} frames of {expected}, sound {lag / 16:+.1f} ms: {verdict}")
    return verdict == "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="*")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--model")
    parser.add_argument("--emotion")
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--poses", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    pipe = EmoTaGPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    if args.poses:
        pictures = [render(pipe, pose(v), args.size) for v in POSES.values()]
        tile(pictures, list(POSES), 4).save(os.path.join(args.output, "poses.png"))
        chosen = [POSES[name] for name in ("neutral", "open", "smile")]
        row = [render(pipe, pose(v), 320) for v in chosen] + [render(pipe, pose({}), 320, yaw) for yaw in (-30, 30)]
        Image.fromarray(np.concatenate(row, 1)).save(os.path.join(args.output, "person.jpg"), quality=88)
        pictures = [render(pipe, pose(v), args.size, yaw) for v in ({}, POSES["smile"]) for yaw in YAWS]
        tile(pictures, [f"yaw {y}" for y in YAWS] * 2, len(YAWS)).save(os.path.join(args.output, "turns.png"))
        pictures = []
        for emotion in EMOTIONS:
            face = pipe.model.motion.emotion_decoder(torch.tensor([[12.0 * (e == emotion) for e in EMOTIONS]]))[0]
            motion = FlameMotion.zeros(1)
            motion.expression[:], motion.jaw_pose[:] = face[:, :50].detach(), face[:, 50:].detach()
            pictures.append(render(pipe, motion, args.size))
        tile(pictures, list(EMOTIONS), 4).save(os.path.join(args.output, "emotions.png"))
        small = [np.asarray(Image.fromarray(p).resize((228, 228), Image.Resampling.LANCZOS)) for p in pictures]
        Image.fromarray(np.concatenate(small, 1)).save(os.path.join(args.output, "emotions.jpg"), quality=88)
    good = [speak(pipe, path, args.output, args.every, emotion=args.emotion, size=args.size) for path in args.audio]
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
