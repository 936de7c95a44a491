"""Speech in, feature frames out: the two audio front ends of GRMN (METHOD 3).

In: mono float32 samples at 16 kHz in [-1, 1]. Out: `log_mel` frames `[Tf, 82]` at 100 Hz (the embedded default: 80
log-mel bands, log-F0, voicing), or hidden states `[Tt, D]` at 50 Hz of a speech encoder (wav2vec2, HuBERT, WavLM: the
paper's Audio Net input). The first is causal and carries an explicit state, so that streaming equals offline; the
second needs the whole recording, because the encoders themselves attend over all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..constants import SAMPLE_RATE

FRAME_RATE = 100  # log_mel frames per second
HOP = SAMPLE_RATE // FRAME_RATE
NUM_MEL_BANDS = 80
FEATURE_DIM = NUM_MEL_BANDS + 2
# Frame k stands for the time k * 10 ms. It looks at samples [160 k - PAST, 160 k + FUTURE): the last 400 of them
# (25 ms) for the spectrum, all 640 (40 ms, at least two periods of a low voice) for the pitch.
FUTURE, WINDOW, PAST = 200, 400, 440
LATENCY_MS = 1000.0 * FUTURE / SAMPLE_RATE  # counts into GRMN's look-ahead

_FFT = 1024
_RANGE_DB = 40.0  # a band this far below its running level is silence (0); at its level it is 1
_FLOOR_DB = -130.0  # digital silence; 16-bit rounding is just above it
_MIN_LAG, _MAX_LAG = 16, 133  # at 8 kHz: 500 Hz to 60 Hz


def num_video_frames(num_samples: int, fps: float = 25.0, sampling_rate: int = SAMPLE_RATE) -> int:
    """Video frames that cover `num_samples` samples of sound: `ceil(num_samples * fps / sampling_rate)`, at least 1."""
    if fps <= 0 or sampling_rate <= 0 or num_samples < 0:
        raise ValueError(
            f"num_video_frames: expected num_samples >= 0 and positive fps and sampling_rate, "
            f"got {num_samples}, {fps} and {sampling_rate}."
        )
    # Rounded first: 0.04 s * 25 must be one frame, not two.
    return max(1, math.ceil(round(num_samples * fps / sampling_rate, 6)))


@dataclass(frozen=True)
class LogMelOptions:
    """Parameters of the embedded front end; part of the processor's configuration.

    Args:
        initial_level_db: initial value of the running loudness of speech (dBFS, RMS).
        initial_band_db: initial value of the running spectrum: knots over the 80 bands, dB.
        initial_f0_hz: initial value of the running pitch.
        prior_seconds: seconds of loud speech that the initial values count as.
        memory_seconds: after this much loud speech the running means decay exponentially.
        silence_dbfs: quieter frames do not update the running means, so that noise is not amplified.
    """

    initial_level_db: float = -24.0
    initial_band_db: tuple[float, ...] = (-76.0, -59.0, -57.0, -62.0, -63.0, -62.0, -61.0, -63.0, -68.0, -74.0)
    initial_f0_hz: float = 140.0
    prior_seconds: float = 0.7
    memory_seconds: float = 8.0
    silence_dbfs: float = -55.0


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    """`[513, 80]` triangular filters, equally spaced in mel (HTK) from 40 to 7,600 Hz, each of unit sum."""
    edges = np.linspace(2595 * math.log10(1 + 40 / 700), 2595 * math.log10(1 + 7600 / 700), NUM_MEL_BANDS + 2)
    hz = 700 * (10 ** (edges / 2595) - 1)
    bins = np.arange(_FFT // 2 + 1)[:, None] * SAMPLE_RATE / _FFT
    rising = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2])
    falling = (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling))
    return (filters / filters.sum(0)).astype(np.float32)


@lru_cache(maxsize=1)
def _mel_bins() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The filters in sparse form: bins and weights `[n]`, band after band, and the first index of each band `[80]`."""
    bands, bins = np.nonzero(_mel_filters().T)
    starts = np.searchsorted(bands, np.arange(NUM_MEL_BANDS))
    return bins, _mel_filters()[bins, bands].astype(np.float64), starts


@lru_cache(maxsize=1)
def _hann() -> np.ndarray:
    window = np.hanning(WINDOW + 1)[:-1]
    return (window / window.sum() * 2).astype(np.float32)  # a full-scale sine has power 1


def _band_db(frames: np.ndarray) -> np.ndarray:
    """`[K, 640]` -> `[K, 80]` dB of the pre-emphasised last 400 samples."""
    tail = frames[:, -WINDOW:]
    emphasised = (tail - 0.97 * frames[:, -WINDOW - 1 : -1]) * _hann()
    power = np.abs(np.fft.rfft(emphasised, _FFT)) ** 2
    # Summed band by band: unlike a matrix product, this rounds a row the same whatever the number of rows.
    bins, weights, starts = _mel_bins()
    mel = np.add.reduceat(power[:, bins].astype(np.float64) * weights, starts, axis=1)
    return 10 * np.log10(mel + 10 ** (_FLOOR_DB / 10))


def _pitch(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[K, 640]` -> F0 in Hz `[K]` and voicing in [0, 1] `[K]`, by normalised autocorrelation at 8 kHz."""
    x = (frames[:, 0::2] + frames[:, 1::2]) * 0.5
    x = x - x.mean(1, keepdims=True)
    length = x.shape[1]
    spectrum = np.fft.rfft(x, 512)
    correlation = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, 512)[:, _MIN_LAG - 1 : _MAX_LAG + 2]
    energy = np.cumsum(x.astype(np.float64) ** 2, 1)
    lags = np.arange(_MIN_LAG - 1, _MAX_LAG + 2)
    head = energy[:, length - 1 - lags]
    tail = energy[:, -1:] - energy[:, lags - 1]
    quiet = length * 10 ** (-60 / 10)  # below -60 dBFS nothing counts as voiced
    ncc = correlation / (np.sqrt(head * tail) + quiet)
    middle = ncc[:, 1:-1]
    peak = (middle >= ncc[:, :-2]) & (middle > ncc[:, 2:])
    score = np.where(peak, middle, 0)
    best = score.max(1)
    # The first peak nearly as high as the best one, because multiples of the period have peaks as well.
    index = np.argmax(score >= 0.88 * best[:, None], 1)
    rows = np.arange(len(x))
    left, centre, right = ncc[rows, index], ncc[rows, index + 1], ncc[rows, index + 2]
    curve = left - 2 * centre + right
    shift = np.where(curve < -1e-9, 0.5 * (left - right) / np.minimum(curve, -1e-9), 0.0)
    f0 = SAMPLE_RATE / 2 / (index + _MIN_LAG + np.clip(shift, -0.5, 0.5))
    return f0, np.clip((best - 0.25) / 0.6, 0, 1)


class LogMelStream:
    """The embedded front end for streaming: push samples, get feature frames.

    Channels: 0..79 the mel bands relative to their running level over loud frames (0 silence, 1 at the level, at most
    2), 80 log-F0 relative to its running mean times voicing (natural log, within [-1, 1]), 81 voicing in [0, 1].
    Exact silence is all zeros, so zero-padding a feature sequence means silence.

    One stream serves one recording: `push` as sound arrives, then `flush` once.
    """

    def __init__(self, options: LogMelOptions | None = None):
        self.options = options or LogMelOptions()
        knots = np.asarray(self.options.initial_band_db, dtype=np.float64)
        bands = np.interp(np.linspace(0, 1, NUM_MEL_BANDS), np.linspace(0, 1, len(knots)), knots)
        self._mean = np.concatenate([bands, [self.options.initial_level_db]])
        self._weight = self.options.prior_seconds * FRAME_RATE
        self._f0_mean = math.log(self.options.initial_f0_hz)
        self._f0_weight = self._weight
        self._buffer = np.zeros(PAST, dtype=np.float32)
        self._samples = 0
        self._frames = 0
        self._finished = False

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Takes `[n]` samples, gives the `[k, 82]` float32 frames that are now complete (k may be 0)."""
        if self._finished:
            raise ValueError("samples: this LogMelStream was flushed; make a new one for the next recording.")
        samples = np.asarray(samples, dtype=np.float32).reshape(-1)
        self._samples += len(samples)
        return self._advance(samples)

    def flush(self) -> np.ndarray:
        """Ends the recording: the remaining frames, `ceil(n / 160)` in all; beyond the end there is silence."""
        if self._finished:
            return np.zeros((0, FEATURE_DIM), np.float32)
        self._finished = True
        missing = -(-self._samples // HOP) - self._frames
        padding = missing * HOP + FUTURE + PAST - HOP - len(self._buffer) if missing > 0 else 0
        return self._advance(np.zeros(max(0, padding), np.float32))[: max(0, missing)]

    def _advance(self, samples: np.ndarray) -> np.ndarray:
        buffer = np.concatenate([self._buffer, samples])
        count = max(0, (len(buffer) - PAST - FUTURE) // HOP + 1)
        self._buffer = buffer[count * HOP :]
        self._frames += count
        if count == 0:
            return np.zeros((0, FEATURE_DIM), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(buffer, PAST + FUTURE)[: count * HOP : HOP]
        return np.concatenate([self._part(frames[i : i + 4096]) for i in range(0, count, 4096)])

    def _part(self, frames: np.ndarray) -> np.ndarray:
        # A few thousand frames at a time, to bound the memory for the windows of long recordings.
        bands = _band_db(frames)
        loudness = 10 * np.log10(np.mean(frames[:, -WINDOW:].astype(np.float64) ** 2, 1) + 1e-9)
        f0, voicing = _pitch(frames)
        levels, log_f0 = self._running_means(np.column_stack([bands, loudness]), np.log(f0), voicing)
        out = np.empty((len(frames), FEATURE_DIM), np.float32)
        out[:, :NUM_MEL_BANDS] = np.clip((bands - levels) / _RANGE_DB + 1, 0, 2)
        out[:, -2] = np.clip(np.log(f0) - log_f0, -1, 1) * voicing
        out[:, -1] = voicing
        return out

    def _running_means(self, values: np.ndarray, log_f0: np.ndarray, voicing: np.ndarray):
        """Exponential means over loud (and voiced) frames, one step per frame: causal whatever the chunking."""
        memory = self.options.memory_seconds * FRAME_RATE
        levels = np.empty((len(values), NUM_MEL_BANDS))
        pitches = np.empty(len(values))
        loudness = values[:, -1].tolist()
        # A lower bound, so that the noise floor of a very soft recording is not taken for speech.
        lowest = _FLOOR_DB + _RANGE_DB
        for k in range(len(values)):
            if loudness[k] > self.options.silence_dbfs:
                # Frames far below the running level are pauses. They count with a small weight, so that a level that is
                # much too high comes down.
                step = 1.0 if loudness[k] > self._mean[-1] - 25 else 0.1
                self._weight = min(self._weight + step, memory)
                self._mean += (step / self._weight) * (values[k] - self._mean)
                if voicing[k] > 0.7:
                    self._f0_weight = min(self._f0_weight + 1, memory)
                    self._f0_mean += (log_f0[k] - self._f0_mean) / self._f0_weight
            levels[k] = self._mean[:-1]
            pitches[k] = self._f0_mean
        return np.maximum(levels, lowest), pitches


def log_mel_features(samples: np.ndarray, options: LogMelOptions | None = None) -> np.ndarray:
    """Features of a whole recording: `[n]` samples -> `[ceil(n / 160), 82]` float32."""
    stream = LogMelStream(options)
    return np.concatenate([stream.push(samples), stream.flush()])


class SpeechEncoderFeatures:
    """The paper's front end: hidden states of a transformers speech encoder (wav2vec2, HuBERT, WavLM, or Whisper's).

    Offline only: such an encoder attends over the whole recording, so there is nothing to stream; GRMN still limits its
    window to the configured look-ahead. The encoder stays frozen and outside the checkpoint, named by id and revision.

    Args:
        model_id: Hub id or folder for `AutoModel.from_pretrained`; ignored when `model` is given.
        revision: revision of the encoder on the Hub.
        model: an encoder that is already loaded, instead of `model_id`.
    """

    def __init__(self, model_id: str | None = None, revision: str | None = None, model=None):
        if model is None and not model_id:
            raise ValueError(
                "audio_model: the 'transformers' front end needs the id of a speech encoder, such as "
                "'facebook/wav2vec2-base-960h'; got none."
            )
        if model is None:
            from transformers import AutoModel

            model = AutoModel.from_pretrained(model_id, revision=revision)
        self.model = model.eval()
        self._whisper = getattr(model.config, "model_type", "") == "whisper"

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """`[n]` samples -> `[ceil(n / 320), D]` float32 hidden states of the last layer, 50 per second."""
        import torch

        samples = np.asarray(samples, dtype=np.float32).reshape(-1)
        tokens = -(-len(samples) // (SAMPLE_RATE // 50))
        if self._whisper:
            return self._whisper_states(samples, tokens)
        deviation = samples.std()
        # These encoders were trained on zero mean and unit variance; near silence is left as it is.
        normal = (samples - samples.mean()) / deviation if deviation > 1e-4 else samples
        normal = np.pad(normal, (0, 400))  # the last token needs a full 25 ms window
        with torch.inference_mode():
            device = next(self.model.parameters()).device
            hidden = self.model(torch.from_numpy(normal)[None].to(device)).last_hidden_state[0]
        hidden = hidden[:tokens].float().cpu().numpy()
        return np.pad(hidden, ((0, tokens - len(hidden)), (0, 0)), mode="edge")

    def _whisper_states(self, samples: np.ndarray, tokens: int) -> np.ndarray:
        """Whisper's encoder takes 30 s of log-mel at a time; longer sound is heard in parts that overlap."""
        import torch
        from transformers import WhisperFeatureExtractor

        config = self.model.config
        extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        encoder = self.model.get_encoder()
        like = next(encoder.parameters())
        whole, edge = config.max_source_positions, config.max_source_positions // 15  # tokens; 2 s of 30
        parts, done = [], 0
        while done < tokens:
            first = max(0, done - edge)
            part = samples[first * SAMPLE_RATE // 50 :][: whole * SAMPLE_RATE // 50]
            mel = extractor(part, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features[..., : 2 * whole]
            with torch.inference_mode():
                hidden = encoder(mel.to(like)).last_hidden_state[0].float().cpu().numpy()
            last = tokens - first <= whole
            until = tokens if last else first + whole - edge
            parts.append(hidden[done - first : until - first])
            done = until
        return np.concatenate(parts)
