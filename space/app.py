"""The Space's "Speak" page. In: a recording, an emotion, its strength. Out: a video of a head that speaks it."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: it is read there

import gradio as gr  # noqa: E402

from emotag_hf import EMOTIONS, EmoTaGPipeline, sample_path  # noqa: E402
from emotag_hf.audio_io import load_audio  # noqa: E402

MAX_SECONDS = 60  # of a recording, so that one visitor does not keep the others waiting
FROM_VOICE = "from the voice"
OUTPUT = Path(tempfile.mkdtemp(prefix="emotag-")) / "talking-head.mp4"  # one visitor at a time; Gradio takes a copy


@lru_cache(maxsize=1)
def load_pipeline() -> EmoTaGPipeline:
    """The embedded model, loaded when the first visitor asks for it."""
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)  # the page has a bar of its own
    return pipe


def speak(audio: str | None, emotion: str, intensity: float, seed: float, progress=gr.Progress()) -> str:  # noqa: B008
    """Makes the video and returns its path; what the visitor can put right is shown to them as a sentence."""
    if audio is None:
        raise gr.Error("Record or upload something first.")
    try:
        clip = load_audio(audio)
        if clip.duration > MAX_SECONDS:
            raise ValueError(f"audio: expected at most {MAX_SECONDS} s on this page, got {clip.duration:.0f} s.")
        emotion = None if emotion == FROM_VOICE else emotion
        result = load_pipeline()(clip, emotion=emotion, intensity=intensity, seed=int(seed or 0))
        result.save(OUTPUT, progress=lambda frames, total: progress.tqdm(frames, total=total, unit="frame"))
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error
    return str(OUTPUT)


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="emotag_hf: Speak", delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "# Speak\nSpeech in, an emotional talking head out, on a CPU. The person is synthetic, and the video is "
            "marked as AI-generated."
        )
        with gr.Row():
            with gr.Column():
                audio = gr.Audio(label="Speech", type="filepath", sources=["upload", "microphone"])
                emotion = gr.Dropdown([FROM_VOICE, *EMOTIONS], value=FROM_VOICE, label="Emotion")
                intensity = gr.Slider(0, 1, value=0.7, step=0.05, label="Intensity")
                seed = gr.Number(0, precision=0, minimum=0, label="Seed of head motion, blinks and gaze")
                button = gr.Button("Speak", variant="primary")
            video = gr.Video(label="Talking head", autoplay=True)
        gr.Examples([[sample_path(), "happy", 0.7, 0]], [audio, emotion, intensity, seed])
        button.click(speak, [audio, emotion, intensity, seed], video, api_name="speak", concurrency_limit=1)
    return page


if __name__ == "__main__":
    build().launch()
