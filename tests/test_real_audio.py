"""The real recordings: each decodes to the length its container states."""

from __future__ import annotations

import av
import numpy as np
import pytest

from emotag_hf.audio_io import load_audio

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
