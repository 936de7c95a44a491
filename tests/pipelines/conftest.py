"""What tests of pipelines share."""

from __future__ import annotations

import pytest

from emotag_hf import EmoTaGPipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe
