"""Guards EmoTaGProcessor: batches, one processor_config.json, both names of its part, and clear refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.models.configuration_emotag import EmoTaGConfig
from emotag_hf.models.processing_emotag import EmoTaGFeatureExtractor, EmoTaGProcessor

SAMPLES = (np.sin(np.arange(20_001) * 0.05) * 0.1).astype(np.float32)


def test_one_recording_and_a_batch():
    """A list is a batch; a shorter recording in it has the features it has alone, then zeros (silence)."""
    processor = EmoTaGProcessor()
    alone = processor(audio=SAMPLES[:8000], sampling_rate=16_000)
    batch = processor(audio=[SAMPLES, SAMPLES[:8000]], sampling_rate=16_000)
    assert alone["input_features"].shape == (1, 50, 82) and alone["input_features"].dtype == torch.float32
    assert batch["input_features"].shape == (2, 126, 82)
    assert torch.equal(batch["input_features"][1, :50], alone["input_features"][0])
    assert batch["input_features"][1, 50:].abs().max() == 0
    assert batch["attention_mask"].sum(1).tolist() == [126, 50]
    assert batch["num_frames"].tolist() == [32, 13]
    assert processor.num_video_frames(20_001, fps=30) == 38


def test_array_types():
    """Plain lists, tensors and float64 are what people have at hand."""
    processor = EmoTaGProcessor()
    wanted = torch.from_numpy(log_mel_features(SAMPLES[:3200]))
    for audio in (SAMPLES[:3200].tolist(), torch.from_numpy(SAMPLES[:3200]), SAMPLES[:3200].astype(np.float64)):
        assert torch.allclose(processor(audio=audio)["input_features"][0], wanted, atol=1e-6)
    assert isinstance(processor(audio=SAMPLES, return_tensors="np")["input_features"], np.ndarray)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (SAMPLES, 44_100, "sampling_rate: expected 16000"),
        (SAMPLES[:0], 16_000, "empty recording"),
        ([], 16_000, "empty list"),
        (np.array([0.0, np.nan], np.float32), 16_000, "NaN"),
        (np.zeros((2, 3, 4), np.float32), 16_000, "mono"),
        ((SAMPLES * 32767).astype(np.int16), 16_000, "float samples"),
        (SAMPLES * 32767, 16_000, "peak"),
        ("speech.wav", 16_000, "array of samples"),
        (None, 16_000, "got None"),
    ],
)
def test_bad_audio_is_named(audio, rate, message):
    """Each bad input gets one sentence naming the argument, not a stack of numpy."""
    with pytest.raises(ValueError, match=message):
        EmoTaGProcessor()(audio=audio, sampling_rate=rate)


def test_round_trip_in_one_file(tmp_path):
    """save_pretrained writes one processor_config.json and everything in it comes back."""
    EmoTaGProcessor(EmoTaGFeatureExtractor(initial_f0_hz=210.0, fps=30)).save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["processor_config.json"]
    loaded = EmoTaGProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.initial_f0_hz == 210.0 and loaded.feature_extractor.fps == 30
    assert loaded.audio_processor is loaded.feature_extractor
    again = EmoTaGProcessor(EmoTaGFeatureExtractor(initial_f0_hz=210.0))(audio=SAMPLES)
    assert torch.equal(loaded(audio=SAMPLES)["input_features"], again["input_features"])


def test_audio_processor_key_is_read(tmp_path):
    """transformers is renaming feature_extractor to audio_processor: files with the new key load too."""
    EmoTaGProcessor(EmoTaGFeatureExtractor(initial_f0_hz=99.0)).save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    values = json.loads(file.read_text())
    values["audio_processor"] = values.pop("feature_extractor")
    file.write_text(json.dumps(values))
    assert EmoTaGProcessor.from_pretrained(tmp_path).feature_extractor.initial_f0_hz == 99.0


def test_auto_processor(tmp_path):
    """AutoProcessor finds it from a folder with the model's config.json, offline."""
    from transformers import AutoConfig, AutoProcessor

    AutoConfig.register("emotag", EmoTaGConfig, exist_ok=True)
    AutoProcessor.register(EmoTaGConfig, EmoTaGProcessor, exist_ok=True)
    EmoTaGConfig().save_pretrained(tmp_path)
    EmoTaGProcessor(EmoTaGFeatureExtractor(initial_f0_hz=99.0)).save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, EmoTaGProcessor) and loaded.feature_extractor.initial_f0_hz == 99.0


def test_speech_encoder_front_end(tmp_path):
    """frontend='transformers' takes any speech encoder by id or folder; it is no part of the saved processor."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7
    )
    Wav2Vec2Model(config).save_pretrained(tmp_path / "encoder")
    extractor = EmoTaGFeatureExtractor("transformers", str(tmp_path / "encoder"), feature_size=32)
    assert extractor(SAMPLES)["input_features"].shape == (1, 63, 32)
    EmoTaGProcessor(extractor).save_pretrained(tmp_path / "processor")
    assert EmoTaGProcessor.from_pretrained(tmp_path / "processor").feature_extractor.frontend == "transformers"
    with pytest.raises(ValueError, match="whisper_blocks"):
        extractor.stream()
    with pytest.raises(ValueError, match="frontend"):
        EmoTaGFeatureExtractor("mfcc")
