"""EmoTaGProcessor: speech samples in, the input tensors of GRMN out (METHOD 3).

In: mono float arrays at 16 kHz in [-1, 1] (`audio_io` decodes and resamples files). Out: `BatchFeature` with
`input_features`, `attention_mask` and `num_frames`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, ProcessorMixin, SequenceFeatureExtractor

from ..audio.audio_features import (
    FEATURE_DIM,
    LogMelOptions,
    LogMelStream,
    SpeechEncoderFeatures,
    log_mel_features,
    num_video_frames,
)
from ..constants import MOTION_FPS, SAMPLE_RATE
from ..utils.typing import PathLike
from .configuration_emotag import FRONTENDS, FRONTENDS_TEXT
from .former_networks import FORMER_FRONTEND


class EmoTaGFeatureExtractor(SequenceFeatureExtractor):
    """Speech to feature frames.

    Args:
        frontend (`str`): `"whisper_blocks"` (log-mel features, which stream) or `"transformers"` (a speech encoder,
            offline only). Avatars of version 0.1 say `"log_mel"`, which is the first.
        audio_model, audio_revision (`str`, *optional*): id and revision of the encoder; loaded when first used.
        feature_size (`int`): channels: 82, or the encoder's width with `"transformers"`.
        sampling_rate (`int`): required sampling rate of the arrays.
        fps (`int`): video frames per second, for `num_frames`.
        initial_level_db, initial_band_db, initial_f0_hz, prior_seconds, memory_seconds, silence_dbfs: of the running
            normalisation, see `LogMelOptions`.
    """

    model_input_names = ["input_features", "attention_mask"]

    def __init__(
        self,
        frontend: str = "whisper_blocks",
        audio_model: str | None = None,
        audio_revision: str | None = None,
        feature_size: int = FEATURE_DIM,
        sampling_rate: int = SAMPLE_RATE,
        padding_value: float = 0.0,
        fps: int = MOTION_FPS,
        initial_level_db: float = LogMelOptions.initial_level_db,
        initial_band_db: Sequence[float] = LogMelOptions.initial_band_db,
        initial_f0_hz: float = LogMelOptions.initial_f0_hz,
        prior_seconds: float = LogMelOptions.prior_seconds,
        memory_seconds: float = LogMelOptions.memory_seconds,
        silence_dbfs: float = LogMelOptions.silence_dbfs,
        **kwargs: Any,
    ) -> None:
        frontend = "whisper_blocks" if frontend == FORMER_FRONTEND else frontend
        if frontend not in FRONTENDS:
            raise ValueError(f"frontend: expected {FRONTENDS_TEXT}, got {frontend!r}.")
        if sampling_rate != SAMPLE_RATE:
            raise ValueError(f"sampling_rate: the front ends work at {SAMPLE_RATE} Hz, got {sampling_rate}.")
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.frontend = frontend
        self.audio_model, self.audio_revision = audio_model, audio_revision
        self.fps = fps
        self.initial_level_db, self.initial_band_db = initial_level_db, list(initial_band_db)
        self.initial_f0_hz, self.prior_seconds = initial_f0_hz, prior_seconds
        self.memory_seconds, self.silence_dbfs = memory_seconds, silence_dbfs
        self._encoder: SpeechEncoderFeatures | None = None

    @property
    def options(self) -> LogMelOptions:
        """The running normalisation as `LogMelStream` takes it."""
        names = ("initial_level_db", "initial_f0_hz", "prior_seconds", "memory_seconds", "silence_dbfs")
        return LogMelOptions(initial_band_db=tuple(self.initial_band_db), **{n: getattr(self, n) for n in names})

    def stream(self) -> LogMelStream:
        """A new stream with this extractor's normalisation; raises ValueError for speech encoders."""
        if self.frontend == "transformers":
            raise ValueError(
                "frontend: 'whisper_blocks' can be streamed; the speech encoders of 'transformers' need the whole "
                "recording."
            )
        return LogMelStream(self.options)

    def to_dict(self) -> dict:
        return {name: value for name, value in super().to_dict().items() if name != "_encoder"}

    def _features(self, samples: np.ndarray) -> np.ndarray:
        if self.frontend != "transformers":
            return log_mel_features(samples, self.options)
        if self._encoder is None:
            self._encoder = SpeechEncoderFeatures(self.audio_model, self.audio_revision)
        return self._encoder(samples)

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        return_attention_mask: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """One recording or a list of them as a batch.

        Args:
            audio: float array or tensor `[n]` in [-1, 1], or a list of such; any lengths.
            sampling_rate: rate of all of them; must be 16,000.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `input_features [B, Tf, C]` (zero-padded, which means silence), `attention_mask [B, Tf]` (1 where there is
            sound) and `num_frames [B]`, the video frames of each.

        Raises:
            ValueError: another rate, an empty recording, more than one channel, NaN or infinite samples.
        """
        if sampling_rate is not None and int(sampling_rate) != self.sampling_rate:
            raise ValueError(
                f"sampling_rate: expected {self.sampling_rate} Hz, got {sampling_rate}; resample the audio first "
                "(`emotag_hf.AudioClip` does it for files)."
            )
        recordings = [_check_audio(item) for item in _as_list(audio)]
        features = [self._features(samples) for samples in recordings]
        length = max(len(f) for f in features)
        batch = np.full((len(features), length, features[0].shape[1]), self.padding_value, np.float32)
        mask = np.zeros((len(features), length), np.int64)
        for row, frames in enumerate(features):
            batch[row, : len(frames)], mask[row, : len(frames)] = frames, 1
        counts = np.array([num_video_frames(len(r), self.fps, self.sampling_rate) for r in recordings])
        data = {"input_features": batch, "attention_mask": mask, "num_frames": counts}
        if return_attention_mask is False:
            del data["attention_mask"]
        return BatchFeature(data, tensor_type=return_tensors)


def _as_list(audio: Any) -> list[Any]:
    """A list of recordings from one or many; a flat list of numbers is one recording."""
    if isinstance(audio, (list, tuple)):
        if len(audio) == 0:
            raise ValueError("audio: expected at least one recording, got an empty list.")
        return [np.asarray(audio)] if np.isscalar(audio[0]) else list(audio)
    if getattr(audio, "ndim", 1) == 2:
        return list(audio)
    return [audio]


def _check_audio(samples: Any) -> np.ndarray:
    """Mono float32 samples `[n]`, or a ValueError that says what is wrong with them."""
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu().numpy()
    try:
        samples = np.asarray(samples)
        if samples.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise ValueError(f"audio: expected an array of samples, got {type(samples).__name__}.") from None
    if samples.dtype.kind in "iu":
        raise ValueError(f"audio: expected float samples in [-1, 1], got {samples.dtype}; divide by its full scale.")
    if samples.ndim != 1:
        raise ValueError(f"audio: expected mono samples [n], got shape {list(samples.shape)}; mix the channels first.")
    if samples.size == 0:
        raise ValueError("audio: expected at least one sample, got an empty recording.")
    if not np.isfinite(samples).all():
        raise ValueError("audio: expected finite samples, got NaN or infinity.")
    if np.abs(samples).max() > 64:
        raise ValueError(f"audio: expected samples in [-1, 1], got a peak of {np.abs(samples).max():.0f}.")
    return np.ascontiguousarray(samples, np.float32)


class EmoTaGProcessor(ProcessorMixin):
    """The processor that `AutoProcessor` loads: wraps [`EmoTaGFeatureExtractor`]; stored in `processor_config.json`.

    Example:

    ```python
    >>> processor = EmoTaGProcessor()
    >>> inputs = processor(audio=samples, sampling_rate=16000)  # input_features [1, Tf, 82], num_frames [1]
    ```
    """

    def __init__(self, feature_extractor: EmoTaGFeatureExtractor | None = None):
        super().__init__(feature_extractor or EmoTaGFeatureExtractor())

    @property
    def audio_processor(self) -> EmoTaGFeatureExtractor:
        """The newer name of `feature_extractor` in transformers."""
        return self.feature_extractor

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: PathLike, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        # transformers' own method would look the class up in its registry; here it is known, under either key.
        values = processor_dict or {}
        values = values.get("feature_extractor") or values.get("audio_processor") or {}
        return [EmoTaGFeatureExtractor.from_dict(dict(values))]

    def __call__(self, audio: Any = None, sampling_rate: int | None = None, **kwargs: Any) -> BatchFeature:
        """See [`EmoTaGFeatureExtractor.__call__`]."""
        if audio is None:
            raise ValueError("audio: expected samples or a list of recordings, got None.")
        return self.feature_extractor(audio, sampling_rate=sampling_rate, **kwargs)

    def num_video_frames(self, num_samples: int, fps: float | None = None) -> int:
        """Number of video frames for so many samples at 16 kHz: `ceil(n * fps / 16000)`, at least 1."""
        return num_video_frames(num_samples, fps or self.feature_extractor.fps, self.feature_extractor.sampling_rate)

    @property
    def model_input_names(self) -> list[str]:
        return list(self.feature_extractor.model_input_names)


__all__ = ["EmoTaGFeatureExtractor", "EmoTaGProcessor", "num_video_frames"]
