"""`pipeline("talking-head")`: the transformers pipeline from audio to a talking head.

In: recordings. Out: `TalkingHeadOutput`. The work is in `talking_head.py`, shared with `EmoTaGPipeline`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import fields
from typing import Any

from transformers import Pipeline

from ..avatars.avatar_facts import decode_picture
from ..avatars.avatar_folder import BACKGROUND, read_avatar_files
from ..hub.hub_transfer import Pushed
from ..hub.repo_contents import refuse_avatar, refuse_push
from ..rendering import available_backends
from ..utils.typing import AudioInput, PathLike
from .idling import idle, idle_options
from .streaming import TalkingHeadStream, speak_options
from .talking_head import SpeakOptions, TalkingHeadOutput, finish, predict, prepare_audio

_OPTIONS = tuple(f.name for f in fields(SpeakOptions))


class TalkingHeadPipeline(Pipeline):
    """The transformers pipeline from speech to a talking head.

    Example:

    ```python
    >>> import emotag_hf
    >>> from transformers import pipeline
    >>> pipeline("talking-head")("speech.wav", emotion="happy").save("out.mp4")  # doctest: +SKIP
    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        if device is None:  # transformers would pick any accelerator; the rasteriser has CPU, and CUDA through gsplat
            device = "cuda" if available_backends()[0] == "gsplat" else "cpu"
        super().__init__(*args, device=device, **kwargs)
        files = {} if self.model.folder is None else read_avatar_files(self.model.folder)
        self._background = decode_picture(files[BACKGROUND], BACKGROUND) if BACKGROUND in files else None

    def __call__(self, audio: AudioInput, **kwargs: Any) -> TalkingHeadOutput | list[TalkingHeadOutput]:
        """Makes the person speak `audio`.

        Args:
            audio: path, bytes, array or `{"array", "sampling_rate"}`; a list of them is a batch and gives a list.
            sampling_rate: Hz of a bare array.
            kwargs: as in `EmoTaGPipeline.__call__`.
        """
        kwargs.pop("batch_size", None)  # recordings differ in length: each is its own batch
        if isinstance(audio, (list, tuple)):
            return list(super().__call__(list(audio), **kwargs)) if audio else []
        return super().__call__(audio, **kwargs)

    def idle(self, seconds: float = 10.0, *, loop: bool = True, **options: Any) -> TalkingHeadOutput:
        """Makes the person wait and listen; see `EmoTaGPipeline.idle`."""
        if options.get("background") is None:
            options["background"] = self._background
        return idle(self.model, self.processor, seconds, loop, idle_options(**options))

    def stream(
        self, chunks: Iterable[Any] | AsyncIterable[Any], *, sampling_rate: int, **options: Any
    ) -> TalkingHeadStream:
        """Makes the person speak sound while it arrives; see `EmoTaGPipeline.stream`."""
        return TalkingHeadStream(self.model, self.processor, chunks, sampling_rate, speak_options(**options))

    def save_pretrained(self, save_directory: PathLike, **kwargs: Any) -> None:
        """Writes the flat folder that every `from_pretrained` of this package reads.

        transformers' own method would also copy the pipeline's source files there and mark the config as remote code;
        the task is registered by `import emotag_hf`, so neither is needed.
        """
        refuse_push(kwargs)
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Pushed:
        """As `EmoTaGPipeline.push_to_hub`, but only for models that are not avatars: this pipeline does not hold an
        avatar's files."""
        from .pipeline_emotag import EmoTaGPipeline

        refuse_avatar(self.model)
        return EmoTaGPipeline(model=self.model, processor=self.processor).push_to_hub(repo_id, **kwargs)

    def _sanitize_parameters(self, sampling_rate: int | None = None, **kwargs: Any) -> Any:
        unknown = sorted(set(kwargs) - set(_OPTIONS))
        if unknown:
            raise ValueError(
                f"talking-head: unknown argument {', '.join(unknown)}; expected sampling_rate, {', '.join(_OPTIONS)}."
            )
        SpeakOptions(**kwargs)  # raises for invalid values before any work
        preprocess = {} if sampling_rate is None else {"sampling_rate": sampling_rate}
        return preprocess, kwargs, {}

    def preprocess(self, audio: Any, sampling_rate: int | None = None) -> Any:
        clip, inputs = prepare_audio(self.processor, audio, sampling_rate)
        return {"clip": clip, **inputs}

    def _forward(self, model_inputs: Any, **options: Any) -> Any:
        if options.get("background") is None:  # the background of the person's video
            options["background"] = self._background
        clip, chosen = model_inputs["clip"], SpeakOptions(**options)
        return {"clip": clip, "predicted": predict(self.model, clip, model_inputs, chosen), "options": chosen}

    def postprocess(self, model_outputs: Any) -> Any:
        return finish(self.model, model_outputs["clip"], model_outputs["predicted"], model_outputs["options"])
