"""Tracks talking clips for `emotag pretrain`: only what motion is learned from, a file a clip, resumable.

    python conversion_scripts/track_talkers.py VIDEOS ... -o OUT [--shard 0/2]

In: videos, or folders of them; sound of the same name with the suffix .wav goes before the video's own. Out: for each
`OUT/<name>.safetensors`: `samples` `[n]` int16 mono at 16 kHz from the first picture on; `face` `[T, 53]`, expression
and jaw; `valid` `[T]`; `action_units` `[T, 14]`; `emotion` `[T, 7]`; `identity` `[512]`; `mouth` `[T, 4]`, distances
between the landmarks (`features.av_offset.measure_mouth`, NaN without a face), all at 25 fps; and `OUT/skipped.json`,
which says of each clip that was left out why. No picture is kept. Clips that are there are not made again, and
`--landmarks FOLDER` keeps the landmarks, so that another version of the tracker need not look at the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from emotag_hf import ParametricHead
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.constants import MOTION_FPS, SAMPLE_RATE
from emotag_hf.preprocessing.data.framing import choose_crop
from emotag_hf.preprocessing.data.prepare_many import VIDEO_SUFFIXES
from emotag_hf.preprocessing.features.action_units import action_units_from_track
from emotag_hf.preprocessing.features.av_offset import measure_mouth
from emotag_hf.preprocessing.features.emotion import emotion_from_action_units, emotion_score
from emotag_hf.preprocessing.features.identity import NUM_CANDIDATES, identity_embedding, neutral_frames
from emotag_hf.preprocessing.tracking.fit import fit_head
from emotag_hf.preprocessing.tracking.head_track import FaceLandmarks
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.video.video_reader import read_video

SIZE = 512
LEAST = 20  # valid frames of a clip that is kept


class _Pictures:
    """The cropped pictures at a few indices, as `identity_embedding` reads them."""

    def __init__(self, video, crop, count: int, indices: set[int]):
        self._count = count
        frames = enumerate(video.frames(MOTION_FPS))
        self._pictures = {index: crop.apply(frame) for index, frame in frames if index in indices}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        return self._pictures[index]


def track(path: Path, head: ParametricHead, kept: Path | None) -> dict[str, np.ndarray]:
    """The tensors of one video. Raises ValueError, in one sentence, where nothing can be learned from it."""
    video = read_video(path)
    found = _landmarks(video, kept)
    if found.found.sum() < LEAST:
        raise ValueError(f"a face was found in {found.found.sum()} frames only")
    crop, _ = choose_crop(found, SIZE)
    inside = FaceLandmarks(crop.to_crop(found.points), found.found, found.num_faces, SIZE, SIZE, MOTION_FPS)
    fitted = fit_head(inside, head=head)
    if int(fitted.valid.sum()) < LEAST:
        raise ValueError(f"the fit is good in {int(fitted.valid.sum())} frames only")
    wav = path.with_suffix(".wav")
    sound = load_audio(wav) if wav.is_file() else video.sound()
    if sound is None:
        raise ValueError("it has no sound")
    count = len(fitted)
    samples = sound.mono(SAMPLE_RATE)[: count * SAMPLE_RATE // MOTION_FPS]
    if len(samples) < SAMPLE_RATE // 2 or np.abs(samples).max() < 1e-3:
        raise ValueError("its sound is silent")
    units = action_units_from_track(fitted, head)
    emotion = emotion_from_action_units(units, MOTION_FPS)
    score = emotion_score(emotion)
    pictures = _Pictures(video, crop, count, set(neutral_frames(fitted, score, NUM_CANDIDATES).tolist()))
    identity, _ = identity_embedding(fitted, pictures, head, score)
    mouth = measure_mouth(inside.points.astype(np.float64))
    mouth[~fitted.valid.numpy()] = np.nan
    return {
        "samples": np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16),
        "face": torch.cat([fitted.motion.expression, fitted.motion.jaw_pose], -1).numpy(),
        "valid": fitted.valid.numpy(),
        "action_units": units.astype(np.float32),
        "emotion": np.asarray(emotion, np.float32),
        "identity": np.asarray(identity, np.float32),
        "mouth": mouth.astype(np.float32),
    }


def _landmarks(video, kept: Path | None) -> FaceLandmarks:
    """In the video's pixels; from `kept`, if they are there."""
    if kept is not None and kept.is_file():
        return FaceLandmarks(**load_file(kept), width=video.width, height=video.height, fps=MOTION_FPS)
    found = track_landmarks(video.frames(MOTION_FPS), video.width, video.height, fps=MOTION_FPS)
    if kept is not None:
        _save({name: getattr(found, name) for name in ("points", "found", "num_faces")}, kept)
    return found


def _save(tensors: dict[str, np.ndarray], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, part)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("videos", nargs="+", type=Path, help="videos, or folders of them")
    parser.add_argument("--landmarks", type=Path, help="folder in which landmarks are kept")
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th video, starting with the i-th (from 0)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    inside = lambda p: sorted(q for q in p.iterdir() if q.suffix.lower() in VIDEO_SUFFIXES)  # noqa: E731
    videos = [video for path in args.videos for video in (inside(path) if path.is_dir() else [path])]
    index, count = (int(number) for number in args.shard.split("/"))
    head = ParametricHead.from_asset()
    args.output.mkdir(parents=True, exist_ok=True)
    notes = args.output / ("skipped.json" if count == 1 else f"skipped_{index}.json")
    skipped = json.loads(notes.read_text()) if notes.is_file() else {}
    for path in tqdm(videos[index::count], unit="clip", disable=not sys.stderr.isatty()):
        target = args.output / f"{path.stem}.safetensors"
        if target.is_file() or path.name in skipped:
            continue
        kept = args.landmarks / f"{path.stem}.safetensors" if args.landmarks else None
        try:
            _save(track(path, head, kept), target)
        except (ValueError, OSError) as error:
            skipped[path.name] = str(error)
            notes.write_text(json.dumps(skipped, indent=1) + "\n")


if __name__ == "__main__":
    main()
