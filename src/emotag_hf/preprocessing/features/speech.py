"""Audio features of a clip (METHOD 3, Audio Net's input), cut to the clip's frames.

In: mono float samples at 16 kHz that begin with the first picture. Out: the tensor that GRMN reads and the name of the
front end: the embedded log-mel with prosody, or (the paper's) the hidden states of a speech encoder.
"""

from __future__ import annotations

import numpy as np
import torch

from ...audio.audio_features import FRAME_RATE, SpeechEncoderFeatures, log_mel_features
from ...constants import MOTION_FPS, SAMPLE_RATE

SOURCE_LOG_MEL = "log-mel and prosody"
_ENCODER_RATE = 50  # tokens per second of `SpeechEncoderFeatures`


def speech_features(
    samples: np.ndarray | torch.Tensor,
    num_frames: int,
    encoder: str | SpeechEncoderFeatures | None = None,
    *,
    fps: float = MOTION_FPS,
) -> tuple[dict[str, torch.Tensor], str]:
    """Features of the sound under `num_frames` pictures.

    Args:
        samples: `[n]` float in [-1, 1], mono, 16 kHz; longer sound is cut, shorter sound continues as silence.
        num_frames: pictures of the clip.
        encoder: None for the embedded front end (82 channels at 100 Hz); the Hub id or folder of a speech encoder,
            such as "facebook/wav2vec2-base-960h" (hidden states at 50 Hz), or a ready `SpeechEncoderFeatures`.
        fps: pictures per second.

    Returns:
        `{"input_features": [Tf, C] float32}` with `Tf = ceil(num_frames / fps * rate)`, and the source to record.

    Raises:
        ValueError: samples that are not mono and finite floats, or no frames.
    """
    samples = np.asarray(samples.detach().cpu() if isinstance(samples, torch.Tensor) else samples)
    if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
        raise ValueError(
            f"samples: expected finite mono floats [n] at {SAMPLE_RATE} Hz, got {samples.dtype} of shape "
            f"{list(samples.shape)}; `audio_io.read_audio` makes them."
        )
    if num_frames < 1:
        raise ValueError(f"num_frames: expected at least 1, got {num_frames}.")
    length = round(num_frames * SAMPLE_RATE / fps)
    samples = np.pad(samples[:length].astype(np.float32), (0, max(0, length - len(samples))))
    if encoder is None:
        features, source, rate = log_mel_features(samples), SOURCE_LOG_MEL, FRAME_RATE
    else:
        source = encoder if isinstance(encoder, str) else _encoder_name(encoder)
        features = (SpeechEncoderFeatures(encoder) if isinstance(encoder, str) else encoder)(samples)
        rate = _ENCODER_RATE
    count = -(-length * rate // SAMPLE_RATE)
    return {"input_features": torch.from_numpy(features[:count].copy())}, source


def _encoder_name(encoder: SpeechEncoderFeatures) -> str:
    return getattr(encoder.model.config, "_name_or_path", "") or type(encoder.model).__name__


__all__ = ["SOURCE_LOG_MEL", "speech_features"]
