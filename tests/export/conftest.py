"""A second of the embedded avatar for the tests of this folder."""

from __future__ import annotations

import pytest

from emotag_hf import EmoTaGPipeline, sample_path
from emotag_hf.audio_io import load_audio


@pytest.fixture(scope="session")
def pipe():
    pipe = EmoTaGPipeline.from_pretrained("emotag-base-open")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def output(pipe):
    """1.3 seconds of speech, 256 pixels."""
    speech = load_audio(sample_path()).mono(16000)[4000:24800]
    return pipe(speech, sampling_rate=16000, size=256, emotion="happy", intensity=0.5)
