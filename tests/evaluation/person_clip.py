"""Processed clips on disk of somebody who does not exist: the demo person, thinned, drawn small while it turns and
speaks. The same clip can be written with its later frames spoilt, the earlier ones being the same to the bit."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from emotag_hf import EmoTaGModel, FlameMotion, default_model_path
from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.constants import EXPRESSION_NAMES, MOTION_DIMS, SAMPLE_RATE
from emotag_hf.preprocessing.data.clip import AUDIO, BACKGROUND, FEATURES, MATTES, TRACK, VIDEO, ProcessedClip
from emotag_hf.preprocessing.data.frame_files import FrameWriter
from emotag_hf.preprocessing.data.sound_file import write_flac
from emotag_hf.preprocessing.data.writer import ClipWriter
from emotag_hf.preprocessing.features.action_units import SOURCE_HEAD
from emotag_hf.preprocessing.features.emotion import SOURCE_RULE
from emotag_hf.preprocessing.tracking.fit import default_camera, fit_head
from emotag_hf.preprocessing.tracking.head_track import FaceLandmarks, HeadTrack
from emotag_hf.video.cropping import FrameCrop

SIZE, FRAMES, TRAIN = 128, 32, 20  # TRAIN is where a group of pictures of video.mp4 begins


@lru_cache(maxsize=1)
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames `[T, H, W, 3]`, mattes `[T, H, W]` and landmarks `[T, 478, 3]` of the person over a flat wall."""
    model = EmoTaGModel.from_pretrained(default_model_path())
    model.gaussians.resize(torch.arange(0, model.gaussians.num_gaussians, 6))
    motion, camera, t = FlameMotion.zeros(FRAMES), default_camera(SIZE, SIZE), torch.arange(FRAMES) * 0.4
    motion.rotation[:, 1], motion.neck_pose[:, 0] = 0.12 * torch.sin(0.5 * t), 0.05 * torch.cos(0.7 * t)
    motion.jaw_pose[:, 0] = 0.09 * (1 - torch.cos(t))
    motion.expression[:, EXPRESSION_NAMES.index("mouthSmile_L")] = 0.4 * torch.sin(0.8 * t).clamp_min(0)
    with torch.no_grad():
        model.gaussians.log_scales += math.log(2.4)
        picture = model.render(model.pose(motion), camera, torch.full((SIZE, SIZE, 3), 0.3))
        vertices = model.head(shape=model.shape[None], **motion.head_inputs()).vertices
        points = model.head.landmarks(vertices)
        eyes = [vertices[:, torch.as_tensor(model.head.region(n))].mean(1) for n in ("right_eye", "left_eye")]
        points = torch.cat([points, *(eye[:, None].expand(-1, 5, -1) for eye in eyes)], 1)
        seen = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    scale = camera.K[0, 0] / seen[..., 2:]
    pixels = seen[..., :2] * scale + camera.K[:2, 2]
    landmarks = torch.cat([pixels, (seen[..., 2:] - seen[..., 2:].mean(1, keepdim=True)) * scale], -1)
    as_bytes = lambda x: (x * 255).round().byte().numpy()  # noqa: E731
    return as_bytes(picture.images), as_bytes(picture.alphas[..., 0]), landmarks.numpy().astype(np.float32)


@lru_cache(maxsize=1)
def tracked() -> HeadTrack:
    """The head fitted to the whole clip, as `prepare` does."""
    yes = np.ones(FRAMES, bool)
    return fit_head(FaceLandmarks(drawn()[2], yes, yes.astype(np.int32), SIZE, SIZE))


def person_clip(target: Path, spoilt: range = range(0), *, sound: bool = True) -> ProcessedClip:
    """Writes a clip of 32 frames of 128x128.

    Args:
        target: its folder.
        spoilt: frames whose pixels, mattes, landmarks, motion and features are noise; so are then the clip's identity,
            background and shape, which are of all frames. Either none, or from a multiple of 5 on.
        sound: whether it has some.
    """
    frames, mattes, landmarks = (array.copy() for array in drawn())
    track, random = tracked(), np.random.default_rng(5)
    tensors, metadata = HeadTrack(**{**vars(track), "landmarks": torch.from_numpy(landmarks)}).to_tensors()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    torch_random = torch.Generator().manual_seed(5)
    features = {
        "action_units": torch.ones(FRAMES, 14),
        "emotion": torch.full((FRAMES, 7), 1 / 7),
        "emotion_score": torch.full((FRAMES,), 6 / 7),
        "identity": torch.nn.functional.normalize(torch.ones(512), dim=0),
    }
    rows = list(spoilt)
    if rows:
        frames[rows] = random.integers(0, 255, frames[rows].shape, dtype=np.uint8)
        mattes[rows] = random.integers(0, 255, mattes[rows].shape, dtype=np.uint8)
        for name in (*MOTION_DIMS, "landmarks"):
            noise = torch.randn(tensors[name][rows].shape, generator=torch_random)
            tensors[name][rows] += (3.0 if name == "landmarks" else 0.2) * noise
        tensors["shape"] += torch.randn(tensors["shape"].shape, generator=torch_random)
        for name in ("action_units", "emotion", "emotion_score"):
            features[name][rows] = torch.rand(features[name][rows].shape, generator=torch_random)
        features["identity"] = torch.randn(512, generator=torch_random)
    with ClipWriter(target, {"spoilt": rows}) as writer:
        write_video(writer.path(VIDEO), drawn()[0], frames, rows[0] if rows else FRAMES)
        with FrameWriter(writer.path(MATTES), SIZE, SIZE, "grey") as file:
            for matte in mattes:
                file.write(matte)
        plate = np.full((SIZE, SIZE, 4), 10 if rows else 76, np.uint8)
        plate[..., 3] = 255
        Image.fromarray(plate).save(writer.path(BACKGROUND))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, writer.path(TRACK), metadata)
        samples = (np.random.default_rng(1).normal(0, 0.1, (FRAMES * 640, 1))).astype(np.float32)
        if sound:
            features["input_features"] = torch.from_numpy(log_mel_features(samples[:, 0]))
        save_file(features, writer.path(FEATURES))
        audio = write_flac(writer.path(AUDIO), AudioClip(samples, SAMPLE_RATE)) if sound else None
        writer.finish("all", files=(VIDEO, MATTES, TRACK, FEATURES))
        camera = track.camera
        offset = {"frames": 0.0, "confidence": 0.1, "reliable": False, "correlation": 0.0}
        return writer.publish(
            {
                "source": {"name": "made.mp4", "sha256": ("2" if rows else "1") * 64},
                "num_frames": FRAMES,
                "crop": FrameCrop.whole(SIZE, SIZE).to_dict(),
                "camera": {"K": camera.K.tolist(), "viewmat": camera.viewmat.tolist()},
                "audio": audio,
                "audio_offset": offset if sound else None,
                "feature_sources": {"action_units": SOURCE_HEAD, "emotion": SOURCE_RULE},
                "warnings": [],
                "license": None,
                "versions": {},
            }
        )


def write_video(path: Path, clean: np.ndarray, frames: np.ndarray, cut: int) -> None:
    """A clip's video of `frames`, whose packets before `cut` are those of `clean`: an encoder looks ahead, so that two
    videos that begin alike need not have the same bits."""
    parts = {}
    for name, pictures in (("clean", clean), ("given", frames)):
        parts[name] = path.with_name(f"{name}.mp4")
        with FrameWriter(parts[name], SIZE, SIZE) as file:
            for picture in pictures:
                file.write(picture)
    with av.open(str(parts["clean"])) as first, av.open(str(parts["given"])) as second, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(first.streams.video[0])
        for source, wanted in ((first, range(cut)), (second, range(cut, len(frames)))):
            for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
                if number in wanted:
                    assert number != cut or packet.is_keyframe
                    packet.stream = stream
                    out.mux(packet)
    for part in parts.values():
        part.unlink()
