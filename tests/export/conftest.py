"""A second of the embedded avatar for the tests of this folder."""

from __future__ import annotations

import pytest
import torch

from emotag_hf import EmoTaGPipeline, RiggedGaussians, sample_path
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.models.gaussian_correctives import ExpressionCode


@pytest.fixture(scope="session")
def pipe():
    pipe = EmoTaGPipeline.from_pretrained("emotag-base-open")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def speak(pipe):
    """1.3 seconds of speech, 256 pixels."""
    speech = load_audio(sample_path()).mono(16000)[4000:24800]
    return pipe(speech, sampling_rate=16000, size=256, emotion="happy", intensity=0.5)


@pytest.fixture(scope="session")
def output(pipe):
    return speak(pipe)


@pytest.fixture(scope="session")
def odd_output():
    """A head with all that an avatar may have: colours that depend on the view, correctives, a mouth that is moved."""
    pipe = EmoTaGPipeline.from_pretrained("emotag-base-open")
    pipe.set_progress_bar_config(disable=True)
    model, generator = pipe.model, torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    old, config = model.gaussians, model.config.gaussians_config
    config.sh_degree, config.num_correctives = 2, 3
    model.gaussians = RiggedGaussians(config)
    count = old.num_gaussians
    state = old.state_dict() | {
        "colors": torch.cat([old.colors.detach(), 0.15 * random(count, 8, 3)], 1),
        "corrective_means": 0.1 * random(count, 3, 3),
        "corrective_colors": 0.3 * random(count, 3, 3),
    }
    model.gaussians.load_state_dict(state)
    model.expression_code = ExpressionCode(3)
    model.expression_code.basis.copy_(random(*model.expression_code.basis.shape))
    model.expression_code.low.fill_(-1.0)
    model.expression_code.high.fill_(1.0)
    with torch.no_grad():
        for parameter in model.motion.mouth_triplane.parameters():
            parameter.copy_(0.2 * random(*parameter.shape))
    output = speak(pipe)
    output.motion.mouth_code = random(*output.motion.mouth_code.shape)
    return output
