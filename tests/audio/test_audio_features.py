"""Guards the embedded audio front end (causality, silence, level) and the paper's front end on a tiny encoder."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from emotag_hf.audio.audio_features import (
    FEATURE_DIM,
    FUTURE,
    HOP,
    LogMelStream,
    SpeechEncoderFeatures,
    log_mel_features,
    num_video_frames,
)

RATE = 16_000


def voice(seconds: float = 2.0, f0: float = 120.0, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """A buzzing voice with pauses: harmonics of `f0`, on and off three times a second, and a little noise."""
    time_ = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * f0 * k * time_) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 3 * time_) * 4, 0, 1)
    noise = np.random.default_rng(seed).standard_normal(len(time_)) * 0.002
    return ((buzz * envelope + noise) * level).astype(np.float32)


@pytest.mark.parametrize("chunk", [320, 1, 77, 5000])
def test_chunks_give_the_same_features(chunk):
    """Streaming must equal offline: 20 ms chunks, odd chunks and single samples give the same features."""
    samples = voice(2.0 if chunk > 1 else 0.2)[: 31_234 if chunk > 1 else 3000]
    stream = LogMelStream()
    parts = [stream.push(samples[i : i + chunk]) for i in range(0, len(samples), chunk)] + [stream.flush()]
    streamed = np.concatenate(parts)
    assert streamed.shape == (-(-len(samples) // HOP), FEATURE_DIM)
    assert np.abs(streamed - log_mel_features(samples)).max() < 1e-6


def test_features_are_causal():
    """Sound after a frame's window must not reach it, or the promised latency is a lie."""
    samples = voice()
    changed = samples.copy()
    cut = 16_000
    changed[cut:] = voice(seed=5, f0=300, level=0.5)[cut:]
    before, after = log_mel_features(samples), log_mel_features(changed)
    last = (cut - FUTURE) // HOP
    assert np.array_equal(before[: last + 1], after[: last + 1])
    assert not np.allclose(before[last + 3 :], after[last + 3 :])


def test_silence_is_zero_and_noise_is_not_blown_up():
    """Zero-padding means silence only if silence is all zeros; and a quiet room must not look like speech."""
    assert np.abs(log_mel_features(np.zeros(RATE, np.float32))).max() == 0
    room = np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32) * 3e-4  # -70 dBFS
    speech = log_mel_features(voice(4.0))[:, :80]
    noise = log_mel_features(room)
    assert noise[:, :80].mean() < 0.6 * speech[speech[:, 20] > 0.5].mean()
    assert np.abs(noise[-100:, :80].mean() - noise[:100, :80].mean()) < 0.05  # no drift upwards
    assert noise[:, -1].mean() < 0.05


def test_level_is_normalised_after_a_while():
    """The same voice 20 dB softer gives nearly the same features once the running means have settled."""
    samples = voice(12.0)
    loud, soft = log_mel_features(samples), log_mel_features(samples * 0.1)
    difference = np.abs(loud - soft)[:, :40]  # above, this buzz has nothing but noise
    assert difference[-300:].mean() < 0.07
    assert difference[:100].mean() > 0.12  # and not by looking ahead


@pytest.mark.parametrize("f0", [90.0, 150.0, 260.0, 380.0])
def test_pitch_is_found(f0):
    """log-F0 relative to the expected pitch, in the first voiced frames; octave errors would show as +-0.69."""
    features = log_mel_features(voice(0.4, f0))
    voiced = features[:, -1] > 0.9
    assert voiced.sum() > 8
    first = features[voiced][:5, -2]
    assert np.abs(first - np.clip(np.log(f0 / 140.0), -1, 1)).max() < 0.12


def test_short_and_odd_lengths():
    """Ten milliseconds, one sample, nothing: the frame count stays ceil(n / 160)."""
    for count in (1, 160, 161, 399):
        assert log_mel_features(voice(0.1)[:count]).shape == (-(-count // HOP), FEATURE_DIM)
    assert log_mel_features(np.zeros(0, np.float32)).shape == (0, FEATURE_DIM)


def test_flushed_stream_refuses_more():
    """Pushing into an ended stream would silently join two recordings."""
    stream = LogMelStream()
    stream.push(voice(0.1))
    stream.flush()
    assert len(stream.flush()) == 0
    with pytest.raises(ValueError, match="flushed"):
        stream.push(voice(0.1))


def test_ten_seconds_are_fast():
    """The budget is 60 ms for 10 s of sound; generous here, for a busy machine, but still far from real time."""
    samples = voice(10.0)
    log_mel_features(samples)
    best = min(_seconds(lambda: log_mel_features(samples)) for _ in range(3))
    assert best < 0.3


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("samples", "fps", "frames"),
    [(640, 25, 1), (641, 25, 2), (16_000, 25, 25), (16_000, 60, 60), (1, 25, 1), (0, 25, 1), (16_001, 30, 31)],
)
def test_num_video_frames(samples, fps, frames):
    """Video as long as its sound, to a frame."""
    assert num_video_frames(samples, fps) == frames


def test_speech_encoder_front_end():
    """The paper's front end: 50 hidden states a second, whatever the length, from any AutoModel speech encoder."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7
    )
    encoder = SpeechEncoderFeatures(model=Wav2Vec2Model(config))
    for count in (16_000, 5_555, 200):
        hidden = encoder(voice(1.0)[:count])
        assert hidden.shape == (-(-count // 320), 32) and np.isfinite(hidden).all()
    assert np.isfinite(encoder(np.zeros(8000, np.float32))).all()
    with pytest.raises(ValueError, match="audio_model"):
        SpeechEncoderFeatures(None)


def test_whisper_as_the_speech_encoder():
    """Whisper's encoder hears 30 s at a time: shorter sound gives its own hidden states, longer sound has no seam."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = WhisperModel(config)
    encoder, samples = SpeechEncoderFeatures(model=model), voice(3.0)
    hidden = encoder(samples[:47_900])
    mel = WhisperFeatureExtractor()(samples[:47_900], sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        expected = model.encoder(mel).last_hidden_state[0].numpy()[:150]
    np.testing.assert_allclose(hidden, expected, atol=1e-6)
    for seconds in (30.0, 57.31, 70.0):
        count = round(seconds * 16_000)
        found = encoder(np.resize(samples, count))
        assert found.shape == (-(-count // 320), 16) and np.isfinite(found).all()
