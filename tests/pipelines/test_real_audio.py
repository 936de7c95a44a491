"""The real recordings: each decodes to the length its container states, and becomes a video as long, in sync."""

from __future__ import annotations

import av
import numpy as np
import pytest

from emotag_hf import EmoTaGPipeline
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.video.video_reader import read_video

pytestmark = pytest.mark.real_data


def test_recordings(test_data):
    """Sixteen recordings at 16 to 48 kHz, 16 and 24 bit, mono and stereo: right length, right level, resampled."""
    paths = sorted(path for path in (test_data / "data" / "audio").iterdir() if path.suffix in (".wav", ".flac"))
    assert len(paths) == 16
    for path in paths:
        with av.open(str(path)) as container:
            stated = container.duration / av.time_base
            rate = container.streams.audio[0].rate
        clip = load_audio(path)
        mono = clip.mono()
        assert clip.sampling_rate == rate, path.name
        assert clip.duration == pytest.approx(stated, abs=0.001), path.name
        assert abs(len(mono) - stated * 16_000) <= 16, path.name
        assert 0.01 < np.abs(mono).max() <= 1.1, path.name


def test_sound_of_clips(test_data):
    """The sound of a video is read as well as that of a recording."""
    paths = sorted((test_data / "data" / "clips").glob("*.mp4"))
    assert paths
    for path in paths:
        with av.open(str(path)) as container:
            stated = container.duration / av.time_base
        assert load_audio(path).duration == pytest.approx(stated, abs=0.25), path.name


def sound_lag(before: np.ndarray, after: np.ndarray) -> int:
    """Samples by which `after` comes later than `before`, by cross-correlation of the first eight seconds."""
    n = min(len(before), len(after), 8 * 16_000)
    spectrum = np.fft.rfft(before[:n], 2 * n).conj() * np.fft.rfft(after[:n], 2 * n)
    lag = int(np.argmax(np.fft.irfft(spectrum)))
    return lag - 2 * n if lag > n else lag


def test_recordings_become_videos_of_their_length_in_sync(test_data, tmp_path):
    """Six languages, slow and fast, one sung: as many frames as the sound needs, sound within 5 ms, lips that move."""
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    for path in sorted((test_data / "data" / "audio").iterdir()):
        out = pipe(path, size=64)
        video = read_video(out.save(tmp_path / "out.mp4"))
        frames = sum(1 for _ in video.frames())
        assert frames == int(np.ceil(round(out.audio.duration * 25, 6))), path.name
        assert abs(sound_lag(out.audio.mono(16_000), video.audio.mono(16_000))) < 80, path.name
        assert out.motion.jaw_pose[:, 0].max() > 0.07, path.name
