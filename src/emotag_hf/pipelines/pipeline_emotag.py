"""`EmoTaGPipeline`: the diffusers pipeline from audio to a talking head.

In: a recording and controls. Out: `TalkingHeadOutput`. Its folder is flat: `config.json`, `model.safetensors`,
`processor_config.json` and `model_index.json` side by side, so that AutoModel, AutoProcessor and
`pipeline("talking-head", model=folder)` load the same folder.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from ..avatars.avatar_facts import decode_picture
from ..avatars.avatar_folder import BACKGROUND, read_avatar_files
from ..hub.hub_transfer import Pushed, fetch
from ..models.checkpoints import check_weights_file
from ..models.modeling_emotag import EmoTaGModel
from ..models.processing_emotag import EmoTaGProcessor
from ..motion.motion_strengths import MotionStrengths
from ..outputs import FlameMotion
from ..preprocessing.data.clip import ProcessedClip
from ..utils.asset_paths import model_path
from ..utils.typing import AudioInput, Background, EmotionInput, PathLike
from .idling import idle
from .streaming import TalkingHeadStream, speak_options
from .talking_head import SpeakOptions, TalkingHeadOutput, finish, predict, prepare_audio

_PACKAGE = "emotag_hf"
_HUB_ARGUMENTS = {"revision", "token", "cache_dir", "local_files_only"}


class EmoTaGPipeline(DiffusionPipeline):
    """The diffusers pipeline from speech to a talking head.

    Args:
        model: the person's `EmoTaGModel`.
        processor: its `EmoTaGProcessor`.

    Example:

    ```python
    >>> from emotag_hf import EmoTaGPipeline
    >>> pipe = EmoTaGPipeline.from_pretrained()
    >>> pipe("speech.wav", emotion="happy", intensity=0.7).save("out.mp4")  # doctest: +SKIP
    ```
    """

    model_cpu_offload_seq = "model"

    def __init__(self, model: EmoTaGModel, processor: EmoTaGProcessor):
        super().__init__()
        self.register_modules(model=model, processor=processor)
        self._avatar_files: dict[str, bytes] = {}
        self._background: np.ndarray | None = None
        self.training_report = None  # of `adapt`, which made this pipeline

    @property
    def avatar_files(self) -> dict[str, bytes]:
        """Name and content of the files that make this an avatar (consent, card, ...); empty if it is none."""
        return dict(self._avatar_files)

    def set_avatar_files(self, files: dict[str, bytes]) -> None:
        """Sets the files that make the model an avatar (`avatar_folder.make_avatar_files`); they are saved and pushed
        with it."""
        self._avatar_files = dict(files)
        self.model.is_avatar = bool(files)
        picture = files.get(BACKGROUND)
        self._background = None if picture is None else decode_picture(picture, "background")

    def __call__(
        self,
        audio: AudioInput,
        *,
        sampling_rate: int | None = None,
        emotion: EmotionInput = None,
        intensity: float = 1.0,
        seed: int = 0,
        fps: float = 25,
        size: int | tuple[int, int] = 512,
        background: Background = None,
        output_type: str = "np",
        head_motion: float | MotionStrengths = 1.0,
        pose_from: ProcessedClip | FlameMotion | None = None,
        expression_from: ProcessedClip | FlameMotion | None = None,
        look_ahead: float | str | None = None,
        articulation: float = 1.0,
    ) -> TalkingHeadOutput | list[TalkingHeadOutput]:
        """Makes the person speak `audio`.

        Args:
            audio: path of a recording or video, bytes, array `[n]` or `[n, channels]`, or
                `{"array", "sampling_rate"}`. A list of them is a batch and gives a list. A silent recording gives a
                face that idles, as `idle` with `loop=False`, and a warning.
            sampling_rate: Hz, needed for a bare array.
            emotion: one of `EMOTIONS`, a mixture `{"happy": 0.7, "surprise": 0.3}`, `{"valence": v, "arousal": a}`,
                action units `{"AU12": 3}`, keyframes `[{"time": 0.0, "emotion": ...}, ...]`, any of these as JSON or
                the path of a `.json` file, or None (or "auto") to let the network read the voice; see
                `EmotionDirection` and docs/emotion.md.
            intensity: 0 to 1, strength of the emotion: the gate g of a given emotion, or a factor on given action
                units; without `emotion`, a factor on the gate that the network predicts.
            seed: of generated head motion, blinks and gaze; the same seed gives bit-identical frames.
            fps: frames per second, 10 to 60.
            size: pixels, a number or (width, height), even.
            background: colour, image or path; None for the background of the person's video, or the model's default.
            output_type: of the frames, `"np"`, `"pil"`, `"pt"`, or `"motion"` for the motion without frames.
            head_motion: strength of generated motion: a number from 0 to 2 for head, gaze, brows and breathing, or
                `MotionStrengths` for each and the blinks.
            pose_from: an opened `ProcessedClip` or a `FlameMotion` whose head pose, gaze and position replace the
                generated ones.
            expression_from: the same for eyelids, brows and the action units that the network reads (docs/motion.md).
            look_ahead: sound after a frame that may influence it: seconds from 0.06 to 2, such as 0.16 or 0.4, or
                `"full"`, about a second, which None means here. Weights without an ear have one look-ahead, 0.16 s.
            articulation: how far the mouth moves in speech, 0.5 (a mumble) to 1.5 (a stage); closed lips stay closed.

        Returns:
            `TalkingHeadOutput`: lazy `frames`, `audio`, `motion`, `.save(path)`.

        Raises:
            ValueError: naming the argument, what was expected and what came.
        """
        background = self._background if background is None else background
        options = SpeakOptions(
            emotion, intensity, seed, fps, size, background, output_type, head_motion, pose_from, expression_from,
            look_ahead, articulation,
        )  # fmt: skip
        if isinstance(audio, (list, tuple)):
            return [self._speak(one, sampling_rate, options) for one in audio]
        return self._speak(audio, sampling_rate, options)

    def idle(
        self,
        seconds: float = 10.0,
        *,
        loop: bool = True,
        emotion: EmotionInput = None,
        intensity: float = 1.0,
        seed: int = 0,
        fps: float = 25,
        size: int | tuple[int, int] = 512,
        background: Background = None,
        output_type: str = "np",
        head_motion: float | MotionStrengths = 1.0,
    ) -> TalkingHeadOutput:
        """Makes the person wait and listen: breath, blinks, gaze, a little motion of the head, lips shut throughout.

        The result has no sound (`audio` is None), and its video no sound track: players repeat such a video without a
        gap, and browsers start it without a click.

        Args:
            seconds: 1 to 600, rounded to whole frames.
            loop: the motion repeats exactly after `seconds`: the frame after the last is the first. Without it, the
                motion is that of a silent recording of this length.
            emotion: as in `__call__`, shown with shut lips; None is a calm face. Keyframes need `loop=False`.
            intensity, seed, fps, size, background, output_type, head_motion: as in `__call__`. In 8 s there is at
                least one blink, unless `MotionStrengths` make them rarer.

        Returns:
            `TalkingHeadOutput`, with `audio` None.

        Raises:
            ValueError: naming the argument, what was expected and what came.

        Example:

        ```python
        >>> pipe.idle(10, emotion="happy", intensity=0.4).save("loop.mp4")  # doctest: +SKIP
        ```
        """
        background = self._background if background is None else background
        options = SpeakOptions(emotion, intensity, seed, fps, size, background, output_type, head_motion)
        return idle(self.model, self.processor, seconds, loop, options, self.progress_bar)

    def stream(
        self,
        chunks: Iterable[Any] | AsyncIterable[Any],
        *,
        sampling_rate: int,
        background: Background = None,
        **options: Any,
    ) -> TalkingHeadStream:
        """Makes the person speak sound while it arrives; at equal look-ahead the frames are those of the whole
        recording (motion within 1e-5).

        Args:
            chunks: generator, or async generator, of samples: arrays or tensors `[n]` or `[n, channels]` of any length,
                floats in [-1, 1] or integers at full scale. An empty array has no effect. None stands for one frame of
                silence, in which the head still blinks and breathes, with its lips shut before the first speech
                and after a second without any.
            sampling_rate: Hz, of all chunks.
            background, options: as for a whole recording (`emotion`, `intensity`, `seed`, `fps`, `size`, ...);
                `look_ahead` is 0.16 s if it is not given.

        Returns:
            `TalkingHeadStream`, an iterator (an async one for an async generator) of `StreamedFrame`s with `index`,
            `time`, `image`, `motion`, `gate` and `emotion_logits`; `.look_ahead` seconds, `.interrupt()`, `.close()`.

        Raises:
            ValueError: naming the argument, what was expected and what came; for a chunk, when it is read.

        Example:

        ```python
        >>> for frame in pipe.stream(microphone(), sampling_rate=48000, emotion="happy"):  # doctest: +SKIP
        ...     show(frame.image, at=frame.time)
        ```
        """
        background = self._background if background is None else background
        chosen = speak_options(background=background, **options)
        return TalkingHeadStream(self.model, self.processor, chunks, sampling_rate, chosen)

    def _speak(self, audio: Any, sampling_rate: int | None, options: SpeakOptions) -> TalkingHeadOutput:
        clip, inputs = prepare_audio(self.processor, audio, sampling_rate)
        predicted = predict(self.model, clip, inputs, options)
        return finish(self.model, clip, predicted, options, self.progress_bar)

    def register_to_config(self, **kwargs: Any) -> None:
        # diffusers would record the module of the class; a saved pipeline records the package, so that modules can be
        # moved.
        public = {
            name: (_PACKAGE, value[1])
            if isinstance(value, tuple) and str(value[0]).startswith(f"{_PACKAGE}.")
            else value
            for name, value in kwargs.items()
        }
        super().register_to_config(**public)

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        # diffusers takes either; a generator needs both to show its progress
        from tqdm.auto import tqdm

        return tqdm(iterable, total=total, **getattr(self, "_progress_bar_config", {}))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike | None = None, **kwargs: Any) -> EmoTaGPipeline:
        """Loads a flat folder or a Hub repository; without an argument the embedded default model.

        Args:
            pretrained_model_name_or_path: folder, `"user/name"`, `"emotag-base"` or `"emotag-base-open"`, which are
                embedded, or None for the first of these.
            kwargs: `revision`, `token`, `cache_dir`, `local_files_only` for the Hub; `dtype` (or `torch_dtype`) of the
                network.

        Raises:
            ValueError: an unknown argument; a folder without a complete checkpoint that matches its config.
            FileNotFoundError: neither a folder nor a repository that can be reached.
        """
        path = model_path(pretrained_model_name_or_path)
        torch_dtype = kwargs.pop("torch_dtype", None)
        dtype = kwargs.pop("dtype", torch_dtype)
        if unknown := sorted(set(kwargs) - _HUB_ARGUMENTS):
            raise ValueError(
                f"from_pretrained: unknown argument {', '.join(unknown)}; expected dtype, "
                f"{', '.join(sorted(_HUB_ARGUMENTS))}; `.to(device)` moves the pipeline."
            )
        folder = cls.download(path, **kwargs)
        check_weights_file(folder)
        model = EmoTaGModel.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype}))
        pipeline = cls(model=model, processor=EmoTaGProcessor.from_pretrained(folder))
        pipeline.set_avatar_files(read_avatar_files(folder))
        return pipeline

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """The local folder of a repository; diffusers' own method refuses components from other packages."""
        return fetch(pretrained_model_name, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike, safe_serialization: bool = True, variant: str | None = None
    ) -> None:
        """Writes the flat folder that every `from_pretrained` of this package reads; `push_to_hub` uploads it.

        Args:
            save_directory: created if it does not exist.
            safe_serialization, variant: for compatibility with diffusers; only safetensors without a variant are
                written.
        """
        if not safe_serialization or variant is not None:
            raise ValueError("save_pretrained: only safetensors without a variant is written.")
        self.model.save_pretrained(save_directory)
        self.processor.save_pretrained(save_directory)
        self.save_config(save_directory)
        for name, content in self._avatar_files.items():
            (Path(save_directory) / name).write_bytes(content)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        commit_message: str | None = None,
        remote_code: bool = False,
    ) -> Pushed:
        """Uploads the flat folder that every `from_pretrained` of this package reads, with a card and a video of it, in
        one commit; an avatar with its consent. The arguments are those of `push_avatar`; docs/sharing.md.

        Raises:
            ConsentError: the person did not agree to publication, or the consent has expired.
            ValueError: part of it must not be uploaded, such as another head's data or a local speech encoder.
            HubError: a wrong token, no write permission or no connection; nothing was committed.
        """
        from ..avatars.push_pipeline import push_pipeline

        options: dict[str, Any] = dict(
            private=private, token=token, commit_message=commit_message, remote_code=remote_code
        )
        return push_pipeline(self, repo_id, **options)
