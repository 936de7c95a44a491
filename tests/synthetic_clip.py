"""A processed clip out of thin air, written by the project's own writer: for the tests of what reads clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.constants import MOTION_DIMS
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.data.clip import AUDIO, BACKGROUND, FEATURES, MATTES, TRACK, VIDEO, ProcessedClip
from emotag_hf.preprocessing.data.frame_files import FrameWriter
from emotag_hf.preprocessing.data.sound_file import write_flac
from emotag_hf.preprocessing.data.writer import ClipWriter
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering.cameras import Camera
from emotag_hf.video.cropping import FrameCrop


def moving_picture(index: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture that differs from every other index: a bright bar that walks over a textured ground."""
    noise = np.random.default_rng(seed).integers(0, 90, (height, width, 3), dtype=np.uint8)
    frame = np.roll(noise, index, axis=1)
    left = (index * 5) % (width - 8)
    frame[:, left : left + 8] = (250, 40 + index % 200, 20)
    return frame


def moving_matte(index: int, width: int, height: int) -> np.ndarray:
    """A soft disc that grows with the index."""
    y, x = np.mgrid[:height, :width]
    radius = 5 + index % 20
    return (np.clip(radius - np.hypot(x - width / 2, y - height / 2), 0, 1) * 255).astype(np.uint8)


def synthetic_track(num_frames: int, camera: Camera, seed: int = 0) -> HeadTrack:
    """Random numbers in the form of a fitted head."""
    random = torch.Generator().manual_seed(seed)
    motion = FlameMotion(**{n: torch.randn(num_frames, d, generator=random) for n, d in MOTION_DIMS.items()})
    valid = torch.ones(num_frames, dtype=torch.bool)
    valid[num_frames // 2] = False
    numbers = {n: torch.rand(num_frames, generator=random) for n in ("confidence", "error", "held_out_error")}
    landmarks = torch.randn(num_frames, 478, 3, generator=random)
    return HeadTrack(motion, torch.zeros(60), camera, valid, landmarks=landmarks, head_sha256="0" * 64, **numbers)


def make_clip(
    target: Path, num_frames: int = 23, size: tuple[int, int] = (64, 48), *, sound: bool = True, seed: int = 0
) -> ProcessedClip:
    """Writes a clip of `num_frames` frames of `size` (width, height)."""
    width, height = size
    camera = Camera.portrait(size)
    with ClipWriter(target, {"seed": seed}) as writer:
        with (
            FrameWriter(writer.path(VIDEO), width, height) as video,
            FrameWriter(writer.path(MATTES), width, height, "grey") as mattes,
        ):
            for i in range(num_frames):
                video.write(moving_picture(i, width, height, seed))
                mattes.write(moving_matte(i, width, height))
        plate = np.dstack([moving_picture(0, width, height, seed), np.full((height, width), 255, np.uint8)])
        plate[10:20, 10:20, 3] = 0
        Image.fromarray(plate).save(writer.path(BACKGROUND))
        tensors, metadata = synthetic_track(num_frames, camera, seed).to_tensors()
        save_file(tensors, writer.path(TRACK), metadata)
        random = torch.Generator().manual_seed(seed)
        features = {
            "action_units": 5 * torch.rand(num_frames, 14, generator=random),
            "emotion": torch.rand(num_frames, 7, generator=random).softmax(1),
            "emotion_score": torch.rand(num_frames, generator=random),
            "identity": torch.randn(512, generator=random),
        }
        save_file(features, writer.path(FEATURES))
        audio = None
        if sound:
            samples = np.random.default_rng(seed).integers(-9000, 9000, (num_frames * 1920, 1)).astype(np.float32)
            audio = write_flac(writer.path(AUDIO), AudioClip(samples / 32768, 48000))
        writer.finish("all", files=(VIDEO, MATTES, TRACK, FEATURES))
        return writer.publish(
            {
                "source": {"name": "made.mp4", "sha256": "1" * 64},
                "num_frames": num_frames,
                "crop": FrameCrop.whole(width, height).to_dict(),
                "camera": {"K": camera.K.tolist(), "viewmat": camera.viewmat.tolist()},
                "audio": audio,
                "audio_offset": {"frames": -2.0, "confidence": 0.7, "reliable": False, "correlation": 0.3}
                if sound
                else None,
                "feature_sources": {"action_units": "made up"},
                "warnings": [],
                "license": None,
                "versions": {},
            }
        )
