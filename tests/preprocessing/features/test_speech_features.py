"""Audio features of a processed clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from emotag_hf.audio.audio_features import SpeechEncoderFeatures
from emotag_hf.models.processing_emotag import EmoTaGProcessor
from emotag_hf.preprocessing.features.speech import SOURCE_LOG_MEL, speech_features


def tone(num_samples: int) -> np.ndarray:
    t = np.arange(num_samples) / 16000
    return (0.3 * np.sin(2 * np.pi * 150 * t) * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """The folder of a tiny random wav2vec2."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("encoder")
    Wav2Vec2Model(config).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("missing", [0, 3000, -5000])
def test_as_many_features_as_frames(missing):
    """Four feature frames a picture at 25 fps, whether the sound ends early or late; missing sound is silence."""
    tensors, source = speech_features(tone(50 * 640 - missing), 50)
    features = tensors["input_features"]
    assert features.shape == (200, 82) and features.dtype == torch.float32 and source == SOURCE_LOG_MEL
    if missing > 0:
        assert features[-10:].abs().max() == 0


def test_same_as_the_processor():
    """A prepared clip and `speak` see the same numbers for the same sound."""
    samples = tone(50 * 640)
    expected = EmoTaGProcessor()(audio=samples, sampling_rate=16000)["input_features"][0]
    assert torch.equal(speech_features(samples, 50)[0]["input_features"], expected)


def test_speech_encoder(encoder):
    """The paper's front end: 50 tokens per second, under the name it was asked for; a ready encoder gives the same."""
    samples = tone(25 * 640 + 777)
    tensors, source = speech_features(torch.from_numpy(samples), 25, encoder)
    assert tensors["input_features"].shape == (50, 16) and source == encoder
    ready = SpeechEncoderFeatures(encoder)
    again, name = speech_features(samples, 25, ready)
    assert torch.equal(again["input_features"], tensors["input_features"]) and name == encoder


def test_wrong_sound():
    """Stereo, integers, NaN and no frames are refused with the argument's name."""
    for samples in (np.zeros((100, 2), np.float32), np.zeros(100, np.int16), np.full(100, np.nan, np.float32)):
        with pytest.raises(ValueError, match="^samples: expected finite mono floats"):
            speech_features(samples, 5)
    with pytest.raises(ValueError, match="^num_frames: expected at least 1, got 0"):
        speech_features(tone(640), 0)
