"""Audio in: formats, rates, resampling, and every recording that cannot be used."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import pytest
import torch

from emotag_hf.audio import audio_io
from emotag_hf.audio.audio_io import AudioClip, AudioError, load_audio, read_audio, resample

ONSET = 0.5  # seconds of silence before the tone of `tone`


def tone(rate: int, channels: int = 1, seconds: float = 2.0, hz: float = 500.0) -> np.ndarray:
    """`[n, channels]`: silence, then a sine of amplitude 0.5."""
    t = np.arange(int(rate * seconds)) / rate
    return np.repeat(((t >= ONSET) * 0.5 * np.sin(2 * np.pi * hz * t))[:, None], channels, axis=1).astype(np.float32)


def encode(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    """The bytes of a file of that kind."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def wav_bytes(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """A 16-bit wav written by the standard library, independent of the decoder under test."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "rate", "channels"),
    [
        ("wav", "pcm_s16le", 44_100, 2),
        ("wav", "pcm_s24le", 48_000, 1),
        ("wav", "pcm_u8", 8_000, 1),
        ("wav", "pcm_f32le", 96_000, 2),
        ("wav", "pcm_f64le", 22_050, 1),
        ("wav", "pcm_s16le", 48_000, 6),
        ("flac", "flac", 48_000, 2),
        ("mp3", "libmp3lame", 44_100, 2),
        ("ipod", "aac", 44_100, 1),  # m4a
        ("mp4", "aac", 16_000, 2),
        ("ogg", "libopus", 48_000, 2),
        ("webm", "libopus", 48_000, 1),
    ],
)
def test_formats(container, codec, rate, channels):
    """Every format gives the same sound: its length, its level, and no shift by an encoder's priming samples."""
    data = encode(tone(rate, channels), rate, container, codec)
    clip = load_audio(data)
    assert clip.sampling_rate == rate and clip.samples.dtype == np.float32
    assert clip.samples.shape[1] == min(channels, 2)
    mono = clip.mono()
    assert abs(len(mono) - 32_000) <= 1
    truth = tone(16_000)[:, 0]
    window = slice(7_000, 25_000)
    lags = range(-30, 31)
    best = max(lags, key=lambda lag: np.dot(mono[7_000 + lag : 25_000 + lag], truth[window]))
    assert abs(best) <= 1
    onset = np.argmax(np.abs(mono) > 0.1) / 16_000
    assert abs(onset - ONSET) < 0.002
    if channels <= 2:
        level = np.abs(mono[10_000:20_000]).max()
        assert 0.44 < level < 0.56


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_resampling(rate):
    """Tones below 6 kHz come through in phase to -60 dB; what lies above 9 kHz does not fold back into speech."""
    t = np.arange(3 * rate + 17) / rate
    middle = slice(4_000, 40_000)
    for hz in (100, 1_000, 3_000, 6_000, 9_500, 15_000, 20_000):
        if hz > 0.45 * rate:
            continue
        out = resample(np.sin(2 * np.pi * hz * t)[:, None].astype(np.float32), rate, 16_000)[:, 0]
        assert len(out) == round(len(t) * 16_000 / rate)
        wanted = np.sin(2 * np.pi * hz * np.arange(len(out)) / 16_000) if hz < 8_000 else np.zeros(len(out))
        assert np.sqrt(np.mean((out - wanted)[middle] ** 2)) < 1e-3


def test_arrays():
    """The same sound as float, 16-bit, 8-bit, channels first, tensor, dict or clip is the same sound."""
    mono = tone(16_000)
    stereo = np.repeat(mono, 2, axis=1)
    wanted = mono[:, 0]
    for audio in (
        mono[:, 0],
        mono,
        stereo,
        stereo.T,
        mono.astype(np.float64),
        (mono * 32_768).astype(np.int16),
        (mono.astype(np.float64) * 2**31).astype(np.int32),
        torch.from_numpy(mono[:, 0]),
        {"array": mono[:, 0], "sampling_rate": 16_000},
        {"raw": mono[:, 0], "sampling_rate": 16_000},
        {"bytes": wav_bytes(mono), "path": None},
        AudioClip(mono, 16_000),
    ):
        np.testing.assert_allclose(read_audio(audio, 16_000), wanted, atol=1e-4)
    np.testing.assert_allclose(read_audio((mono[:, 0] * 127 + 128).astype(np.uint8), 16_000), wanted, atol=0.02)


def test_opposite_channels():
    """A stereo recording with one channel inverted is not silent, although its mean is."""
    mono = tone(16_000)
    assert np.abs(read_audio(np.concatenate([mono, -mono], axis=1), 16_000)).max() > 0.4


def test_late_sound_of_a_video(tmp_path):
    """The sound of a video keeps its place when the audio track begins 0.4 s after the picture."""
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width = video.height = 64
        sound = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = i
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(16_000).reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 6_400
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    onset = np.argmax(np.abs(read_audio(path)) > 0.1) / 16_000
    assert onset == pytest.approx(0.4 + ONSET, abs=0.003)


def _video_without_sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return buffer.getvalue()


_NAN = tone(16_000)[:, 0].copy()
_NAN[100] = np.nan
_NAN_WAV = encode(np.full((8_000, 1), np.nan, np.float32), 16_000, "wav", "pcm_f32le")

BAD = {
    "no bytes": (b"", "is not a recording"),
    "text": (b"I am not a recording. " * 200, "is not a recording"),
    "a play list that would open an address": (b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", "is not a recording"),
    "a script that would open a file": (b"ffconcat version 1.0\nfile /etc/hostname\n", "is not a recording"),
    "noise": (np.random.default_rng(0).bytes(20_000), "is not a recording"),
    "a bare header": (wav_bytes(np.zeros((0, 1))), "no samples"),
    "a silent video": (_video_without_sound(), "no audio stream"),
    "10 ms": (wav_bytes(tone(16_000)[8_100:8_260]), "at least 40 ms of sound, got 10.0 ms"),
    "silence": (wav_bytes(np.zeros((16_000, 1))), "silent"),
    "NaN in a file": (_NAN_WAV, "NaN or infinity"),
    "a dict without sound": ({"text": "hello"}, "got the keys ['text']"),
    "a list": ([0.1, 0.2], "got list"),
    "nothing": (None, "got NoneType"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recordings(case):
    """Each gets one sentence that names the argument and what came."""
    audio, words = BAD[case]
    with pytest.raises(AudioError) as caught:
        load_audio(audio)
    message = str(caught.value)
    assert message.startswith("audio: ") and words in message and "\n" not in message


@pytest.mark.parametrize(
    ("array", "rate", "words"),
    [
        (_NAN, 16_000, "NaN"),
        (tone(16_000)[:, 0], None, "sampling_rate"),
        (tone(16_000)[:, 0], 0, "sampling_rate: expected"),
        (np.zeros(0, np.float32), 16_000, "no samples"),
        (np.zeros((3, 4, 5), np.float32), 16_000, "shape (3, 4, 5)"),
        (np.zeros((90, 100), np.float32), 16_000, "shape (90, 100)"),
        (tone(16_000)[:, 0] * 32_768, 16_000, "divide 16-bit values"),
        (np.ones(16_000, np.int64), 16_000, "int64"),
        (np.ones(16_000, np.complex64), 16_000, "complex64"),
    ],
)
def test_bad_arrays(array, rate, words):
    with pytest.raises(AudioError, match="^(audio|sampling_rate): ") as caught:
        load_audio(array, rate)
    assert words in str(caught.value)


def test_bad_paths(tmp_path, monkeypatch):
    """Missing, a folder, empty, text with the name of a wav, not permitted: each says so and names the path."""
    with pytest.raises(FileNotFoundError, match="no file .*missing.wav"):
        load_audio(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is a folder"):
        load_audio(str(tmp_path))
    path = tmp_path / "a.wav"
    path.touch()
    with pytest.raises(AudioError, match="a.wav is empty"):
        load_audio(path)
    path.write_text("hello\n" * 99)
    with pytest.raises(AudioError, match="a.wav is not a recording"):
        load_audio(path)

    def refuse(*args, **kwargs):  # chmod does not stop a test that runs as root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionError, match="reading .*a.wav is not permitted"):
        load_audio(path)


def test_damaged_middle(caplog):
    """A few damaged bytes in the middle of an mp3 cost a moment, not the recording."""
    data = bytearray(encode(tone(44_100), 44_100, "mp3", "libmp3lame"))
    data[len(data) // 2 : len(data) // 2 + 600] = np.random.default_rng(0).bytes(600)
    assert abs(load_audio(bytes(data)).duration - 2.0) < 0.2


def test_one_wrong_time_stamp(monkeypatch, caplog):
    """The bug: one block stamped 20 s late put 20 s of silence before everything after it."""
    decoded = audio_io._decoded

    def with_wrong_stamp(*arguments):
        for index, frame in enumerate(decoded(*arguments)):
            if index == 50:
                frame.pts += round(20 / frame.time_base)
            yield frame

    data = encode(tone(48_000), 48_000, "mp4", "aac")
    good = load_audio(data)
    monkeypatch.setattr(audio_io, "_decoded", with_wrong_stamp)
    assert np.array_equal(load_audio(data).samples, good.samples) and "jump ahead alone" in caplog.text


def test_a_real_gap_is_silence(monkeypatch, caplog):
    """Where the stamps go on from a jump, sound is missing and silence stands for it."""
    decoded = audio_io._decoded

    def with_gap(*arguments):
        for index, frame in enumerate(decoded(*arguments)):
            if index >= 50:
                frame.pts += round(0.5 / frame.time_base)
            yield frame

    data = encode(tone(48_000), 48_000, "mp4", "aac")
    monkeypatch.setattr(audio_io, "_decoded", with_gap)
    assert load_audio(data).duration == pytest.approx(2.5, abs=0.022) and not caplog.text
