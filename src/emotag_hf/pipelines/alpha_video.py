"""Video with an alpha channel, for compositing the head over other content: ProRes 4444 (`.mov`) or VP9 (`.webm`).

In: a `TalkingHeadOutput`. Out: a video with straight alpha and the sound, marked as AI-generated.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from ..audio.audio_io import resample
from ..rendering.compositing import to_uint8
from ..rights.provenance import container_tags
from ..utils.typing import PathLike
from ..video.video_writer import VideoWriteError, check_output
from .talking_head import LazyFrames, TalkingHeadOutput

_CHUNK = 8  # frames posed at once
_WITH_ALPHA = {  # suffix -> container, codec, pixels, options, sound
    ".mov": ("mov", "prores_ks", "yuva444p10le", {"profile": "4444"}, "pcm_s16le"),
    ".webm": ("webm", "libvpx-vp9", "yuva420p", {"crf": "20", "b": "0", "deadline": "realtime"}, "libopus"),
}
_SOUND_RATE = 48_000  # Hz, what Opus takes


def save_with_alpha(output: TalkingHeadOutput, path: PathLike, *, progress: Callable[..., Any] | None = None) -> str:
    """Writes a talking head and its sound, if any, without the background, with straight (not premultiplied) alpha.

    Args:
        output: of a pipeline; its background is not used.
        path: `.mov` for ProRes 4444 (video editors; large) or `.webm` for VP9 (browsers; small, chroma at half
            resolution).
        progress: wraps the iterable of frames, such as `tqdm`; by default the output's own bar.

    Raises:
        ValueError: another suffix, or an output with `output_type="motion"`.
        FileNotFoundError, PermissionError, VideoWriteError: it cannot be written; no partial file is left.
    """
    path = Path(path)
    if path.suffix.lower() not in _WITH_ALPHA:
        raise ValueError(f"path: expected a name that ends in {' or '.join(_WITH_ALPHA)}, got {path.name!r}.")
    if output.frames is None:
        raise ValueError("save_with_alpha: this result holds motion only; ask for output_type 'np', 'pil' or 'pt'.")
    check_output(path.with_suffix(".mp4"))  # is its folder writable?
    kind, codec, pixels, options, sound_codec = _WITH_ALPHA[path.suffix.lower()]
    partial = path.with_name(f".emotag-{secrets.token_hex(4)}.partial{path.suffix}")
    progress = progress or output.progress or (lambda frames, total: frames)
    rate, position = Fraction(output.fps).limit_denominator(1001), 0
    sound = np.zeros((0, 1), np.float32)
    if output.audio is not None:
        sound = resample(output.audio.samples, output.audio.sampling_rate, _SOUND_RATE)
    try:
        with av.open(os.path.abspath(partial), "w", format=kind) as container:
            container.metadata.update(container_tags(output.metadata))
            video = container.add_stream(codec, rate=rate, options=options)
            context = video.codec_context
            context.height, context.width = output.frames.background.shape[:2]
            context.pix_fmt, context.time_base, context.thread_count = pixels, 1 / rate, 2
            context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1  # BT.709, TV
            layout = "mono" if sound.shape[1] == 1 else "stereo"
            if len(sound):
                track = container.add_stream(sound_codec, rate=_SOUND_RATE, layout=layout)
            pieces = np.array_split(np.ascontiguousarray(sound, np.float32), len(output.frames))
            for i, frame in enumerate(progress(_rgba(output.frames), total=len(output.frames))):
                picture = av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format=pixels, dst_colorspace=1)
                picture.pts, picture.time_base = i, 1 / rate
                container.mux(video.encode(picture))  # type: ignore[arg-type]
                if pieces[i].size:
                    samples = av.AudioFrame.from_ndarray(pieces[i].reshape(1, -1), format="flt", layout=layout)
                    samples.sample_rate, samples.pts, samples.time_base = (
                        _SOUND_RATE,
                        position,
                        Fraction(1, _SOUND_RATE),
                    )
                    position += len(pieces[i])
                    container.mux(track.encode(samples))  # type: ignore[arg-type]
            for stream in container.streams:
                container.mux(stream.encode(None))  # type: ignore[attr-defined]
        os.replace(partial, path)
    except (OSError, av.error.FFmpegError) as error:
        raise VideoWriteError(f"path: {path} could not be written ({error}); nothing was left behind.") from error
    finally:
        partial.unlink(missing_ok=True)
    return os.fspath(path)


@torch.no_grad()
def _rgba(frames: LazyFrames) -> Iterator[np.ndarray]:
    """Frames `[H, W, 4]` uint8."""
    model, camera = frames.model, frames.camera
    black, basis = torch.zeros_like(frames.background), model.mouth_basis()
    model.warm_up()
    for start in range(0, len(frames), _CHUNK):
        posed = model.pose(frames.motion[start : start + _CHUNK], basis)
        for i in range(len(posed.means)):
            drawn = model.render(posed[i : i + 1], camera, black)
            color, alpha = drawn.images[0].cpu(), drawn.alphas[0].cpu()
            # Transparent pixels get the person's mean colour, because encoders blend them into the edge.
            mean = color.sum((0, 1)) / alpha.sum().clamp_min(1e-6)
            straight = (color + 1e-3 * mean) / (alpha + 1e-3)
            yield to_uint8(torch.cat([straight, alpha], -1).clamp(0, 1))


__all__ = ["save_with_alpha"]
