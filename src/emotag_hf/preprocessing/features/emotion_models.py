"""Emotion teacher as in the paper: a facial-expression classifier from the Hub (METHOD 4).

In: RGB frames and where the face is. Out: `[T, 7]` probabilities in the order of `constants.EMOTIONS`. Any
image-classification model works whose labels are the seven emotions, under their usual names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from PIL import Image

from ...constants import EMOTIONS

# Names of the seven in models and datasets (FER-2013, AffectNet, RAF-DB, KDEF, DeepFace).
LABEL_NAMES: dict[str, tuple[str, ...]] = {
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid", "scared"),
    "happy": ("happy", "happiness", "joy"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
    "neutral": ("neutral", "neutrality", "no emotion"),
}
DROPPED_LABELS = ("contempt",)  # AffectNet's eighth class; its probability goes to the others
_MARGIN = 1.3  # side of the crop over the landmarks' extent: brows, chin and some hair, as in FER-2013 and AffectNet
_BATCH = 16


def label_columns(labels: Mapping[int, str], model_id: str) -> list[int]:
    """For each of `EMOTIONS` the index of a model's label.

    Raises:
        ValueError: a label that names no known emotion, or an emotion that is missing or named twice.
    """
    known = {name: emotion for emotion, names in LABEL_NAMES.items() for name in names}
    columns: dict[str, int] = {}
    for index, label in sorted((int(i), str(label)) for i, label in labels.items()):
        name = label.strip().lower().replace("_", " ")
        if name in DROPPED_LABELS:
            continue
        if name not in known or known[name] in columns:
            raise ValueError(
                f"model_id: expected a classifier of {', '.join(EMOTIONS)}, but {model_id} has the label {label!r} "
                f"among {', '.join(map(str, labels.values()))}."
            )
        columns[known[name]] = index
    missing = [emotion for emotion in EMOTIONS if emotion not in columns]
    if missing:
        raise ValueError(f"model_id: expected a classifier of {', '.join(EMOTIONS)}; {model_id} lacks {missing}.")
    return [columns[emotion] for emotion in EMOTIONS]


class HubEmotionTeacher:
    """Emotion probabilities by an image-classification model through transformers.

    Args:
        model_id: Hub id or folder for `AutoModelForImageClassification` and `AutoImageProcessor`.
        revision: its revision.

    Raises:
        ValueError: its labels are not the seven emotions; OSError: it cannot be loaded.
    """

    def __init__(self, model_id: str, revision: str | None = None):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        # The PIL backend: torchvision's is the default, and torchvision is not among the requirements.
        self.processor = AutoImageProcessor.from_pretrained(model_id, revision=revision, backend="pil")
        self.model = AutoModelForImageClassification.from_pretrained(model_id, revision=revision).eval()
        self.columns = label_columns(self.model.config.id2label, model_id)
        self.source = model_id if revision is None else f"{model_id}@{revision}"

    def __call__(self, frames: Iterable[np.ndarray], landmarks: np.ndarray | None = None) -> np.ndarray:
        """`[T, 7]` float32 probabilities in the order of `EMOTIONS`, rows of sum 1.

        Args:
            frames: T pictures `[H, W, 3]` uint8 RGB; taken one batch at a time.
            landmarks: `[T, 478, 3]` in pixels of the frames, to cut out the face; a frame without face (NaN) takes the
                place of the face in the last frame that had one. Without landmarks the frames are faces already.

        Raises:
            ValueError: no frames, another number of landmarks than of frames, or no face in any frame.
        """
        faces = iter(frames) if landmarks is None else face_crops(frames, np.asarray(landmarks))
        parts = []
        while batch := list(islice(faces, _BATCH)):
            images = [Image.fromarray(np.ascontiguousarray(face)) for face in batch]
            inputs = self.processor(images=images, return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**inputs).logits[:, self.columns]  # without the dropped labels: renormalised
            parts.append(logits.float().softmax(-1).cpu().numpy())
        if not parts:
            raise ValueError("frames: expected at least one picture, got none.")
        return np.concatenate(parts)


def face_crops(frames: Iterable[np.ndarray], landmarks: np.ndarray) -> Iterator[np.ndarray]:
    """Square pictures of the face in each frame, 1.3 times as large as its landmarks; see `HubEmotionTeacher`."""
    found = np.isfinite(landmarks[:, :, :2]).all((1, 2))
    if not found.any():
        raise ValueError("landmarks: expected a face in at least one frame, got none.")
    rows = np.maximum.accumulate(np.where(found, np.arange(len(found)), -1))
    rows[rows < 0] = np.flatnonzero(found)[0]
    count = 0
    for count, frame in enumerate(frames, 1):
        if count > len(rows):
            break
        points = landmarks[rows[count - 1], :, :2]
        low, high = points.min(0), points.max(0)
        side = _MARGIN * float((high - low).max())
        left, top = (low + high) / 2 - side / 2
        size = max(8, round(side))
        box = tuple(int(round(v)) for v in (left, top, left + size, top + size))
        yield np.asarray(Image.fromarray(frame).crop(box))
    if count != len(rows):
        raise ValueError(f"landmarks: expected one row for each frame, got {len(rows)} for another number of frames.")


def emotion_from_frames(
    frames: Iterable[np.ndarray], model_id: str, landmarks: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Probabilities `[T, 7]` of a Hub model and the source to record; see `HubEmotionTeacher`."""
    teacher = HubEmotionTeacher(model_id)
    return teacher(frames, landmarks), teacher.source


__all__ = ["DROPPED_LABELS", "LABEL_NAMES", "HubEmotionTeacher", "emotion_from_frames", "face_crops", "label_columns"]
