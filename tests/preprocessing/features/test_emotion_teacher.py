"""Emotion: the rule over action units, classifiers of the Hub, DeepFace's numbers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from emotag_hf.constants import ACTION_UNITS, EMOTIONS
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.motion.emotion_prototypes import expression_prototypes
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.features.action_units import action_units_from_track
from emotag_hf.preprocessing.features.emotion import (
    EMOTION_WEIGHTS,
    emotion_from_action_units,
    emotion_score,
    read_deepface_csv,
    smooth_action_units,
)
from emotag_hf.preprocessing.features.emotion_models import (
    HubEmotionTeacher,
    emotion_from_frames,
    face_crops,
    label_columns,
)
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering.cameras import Camera


def intensities(num_frames: int = 50, **units: float | np.ndarray) -> np.ndarray:
    aus = np.zeros((num_frames, len(ACTION_UNITS)))
    for unit, value in units.items():
        aus[:, ACTION_UNITS.index(unit)] = value
    return aus


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_prototypes_are_recognised(emotion):
    """The faces that `emotion_prototypes` gives for each emotion are read back as that emotion, over the same units."""
    head = ParametricHead.from_asset()
    motion = FlameMotion.zeros(40)
    motion.eyelids[:] = 0.2
    face = expression_prototypes()[EMOTIONS.index(emotion)]
    motion.expression[10:], motion.jaw_pose[10:] = 0.8 * face[:50], 0.8 * face[50:]
    ones = torch.ones(40)
    track = HeadTrack(
        motion=motion, shape=torch.zeros(head.num_shape), camera=Camera.portrait(64), valid=ones.bool(),
        confidence=ones, error=ones, held_out_error=ones, landmarks=torch.zeros(40, 478, 3), head_sha256=head.sha256,
    )  # fmt: skip
    probabilities = emotion_from_action_units(action_units_from_track(track, head))
    assert EMOTIONS[probabilities[30].argmax()] == emotion
    score = emotion_score(probabilities)
    assert score[30] < 0.15 if emotion == "neutral" else score[30] > 0.6
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5) and probabilities.dtype == np.float32


def test_a_face_at_rest_is_neutral():
    """e is small without any unit, and traces that every face shows leave it there."""
    assert emotion_score(emotion_from_action_units(intensities())).max() < 0.12
    assert emotion_score(emotion_from_action_units(intensities(**dict.fromkeys(ACTION_UNITS, 0.3)))).max() < 0.12


def test_blinks_are_no_emotion():
    """A blink moves AU05, AU07 and AU45 and brings the brows along; the emotion does not see it."""
    aus = intensities(75, AU05=0.5)
    for frame in (20, 45):
        aus[frame - 2 : frame + 3, [ACTION_UNITS.index(u) for u in ("AU07", "AU04", "AU45")]] = [4.0, 2.0, 5.0]
    quiet = emotion_from_action_units(intensities(75, AU05=0.5))
    assert np.abs(emotion_from_action_units(aus) - quiet).max() < 0.01
    assert emotion_from_action_units(intensities(75, AU45=5.0)).argmax(1).tolist() == [6] * 75  # asleep


def test_syllables_are_no_emotion():
    """Lips that spread for a fifth of a second do not smile; lips that stay spread do."""
    syllables = np.where(np.arange(100) % 12 < 5, 3.0, 0.0)
    assert emotion_from_action_units(intensities(100, AU12=syllables)).argmax(1).tolist() == [6] * 100
    assert (emotion_from_action_units(intensities(100, AU12=3.0)).argmax(1) == EMOTIONS.index("happy")).all()


def test_smoothing_follows_the_frame_rate():
    """The same second of face gives the same, however many frames it has."""
    wave = lambda fps: np.where(np.arange(4 * fps) // fps % 2 == 1, 3.0, 0.0)  # noqa: E731
    slow = smooth_action_units(intensities(100, AU12=wave(25)), 25)
    fast = smooth_action_units(intensities(200, AU12=wave(50)), 50)
    assert np.abs(fast[::2] - slow).mean() < 0.05
    assert len(emotion_from_action_units(intensities(1, AU12=3.0))) == 1


def test_every_weight_names_a_unit():
    """The table speaks of units that exist, and no emotion wins by leaving units away."""
    for emotion, weights in EMOTION_WEIGHTS.items():
        assert set(weights) <= set(ACTION_UNITS), emotion
        assert emotion == "neutral" or max(weights.values()) > 1
    assert tuple(EMOTION_WEIGHTS) == EMOTIONS


def test_wrong_units():
    """Six columns (GRMN's) instead of fourteen, NaN and empty clips are refused."""
    for aus in (np.zeros((5, 6)), np.full((5, 14), np.nan), np.zeros((0, 14))):
        with pytest.raises(ValueError, match=r"^aus: expected finite intensities \[T, 14\]"):
            emotion_from_action_units(aus)


AFFECTNET = ("anger", "contempt", "disgust", "Fear", "happiness", "neutral", "sadness", "surprised")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    """The folder of a tiny random ViT with AffectNet's eight labels."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label=dict(enumerate(AFFECTNET)), label2id={name: i for i, name in enumerate(AFFECTNET)},
    )  # fmt: skip
    path = tmp_path_factory.mktemp("classifier")
    model = ViTForImageClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=0.3)  # so that pictures differ
    model.save_pretrained(path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    return str(path)


def pictures(count: int, size: tuple[int, int] = (60, 80)) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, *size, 3), dtype=np.uint8))


def test_hub_classifier(classifier):
    """The model's own softmax, in the order of EMOTIONS, without contempt, however many frames make a batch."""
    frames = pictures(19)
    probabilities, source = emotion_from_frames(iter(frames), classifier)
    assert probabilities.shape == (19, 7) and source == classifier and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    teacher = HubEmotionTeacher(classifier)
    with torch.inference_mode():
        inputs = teacher.processor(images=[frames[17]], return_tensors="pt")
        whole = teacher.model(**inputs).logits.softmax(-1)[0].numpy()
    rest = 1 - whole[1]
    for i, label in ((0, 0), (1, 2), (2, 3), (3, 4), (4, 6), (5, 7), (6, 5)):
        assert abs(probabilities[17, i] - whole[label] / rest) < 1e-5
    assert np.ptp(probabilities, 0).max() > 1e-3


def test_hub_classifier_needs_no_torchvision(classifier, monkeypatch):
    """transformers' image processors want torchvision by default, which the project does without."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert type(HubEmotionTeacher(classifier).processor).__name__.endswith("Pil")


def test_faces_are_cut_out():
    """The classifier sees the face, also at the picture's border; a frame without face shows the last one."""
    frames = [np.zeros((100, 120, 3), np.uint8) for _ in range(3)]
    landmarks = np.full((3, 478, 3), np.nan, np.float32)
    corners = np.array([[50, 30], [90, 70]], np.float32)
    landmarks[1, :, :2] = corners[np.arange(478) % 2]
    for frame in frames:
        frame[24:76, 44:96] = 200
    faces = list(face_crops(frames, landmarks))
    assert [face.shape for face in faces] == [(52, 52, 3)] * 3 and all((face == 200).all() for face in faces)
    landmarks[:, :, :2] = corners[np.arange(478) % 2] - 50
    assert next(iter(face_crops(frames[:3], landmarks))).shape == (52, 52, 3)


def test_faces_that_are_missing(classifier):
    """No face, no frame, or landmarks of another clip."""
    teacher = HubEmotionTeacher(classifier)
    nowhere = np.full((3, 478, 3), np.nan)
    with pytest.raises(ValueError, match="^landmarks: expected a face in at least one frame"):
        teacher(pictures(3), nowhere)
    with pytest.raises(ValueError, match="^frames: expected at least one picture"):
        teacher([])
    for count in (2, 4):
        with pytest.raises(ValueError, match="^landmarks: expected one row for each frame"):
            teacher(pictures(count), np.random.default_rng(0).random((3, 478, 3)) * 50)


def test_labels():
    """FER-2013's, DeepFace's and RAF-DB's names are understood; others are refused with their name."""
    assert label_columns(dict(enumerate(EMOTIONS)), "m") == list(range(7))
    with pytest.raises(ValueError, match="m has the label 'LABEL_0' among"):
        label_columns({i: f"LABEL_{i}" for i in range(7)}, "m")
    with pytest.raises(ValueError, match=r"m lacks \['neutral'\]"):
        label_columns(dict(enumerate(EMOTIONS[:6])), "m")
    with pytest.raises(ValueError, match="has the label 'joy'"):
        label_columns(dict(enumerate((*EMOTIONS, "joy"))), "m")


def write_deepface(path, rows: np.ndarray, prefix: str = "", **columns: np.ndarray) -> None:
    names = [*columns, *(prefix + e for e in EMOTIONS)]
    lines = [",".join(names)]
    for k, row in enumerate(rows):
        cells = [*(f"{c[k]:g}" for c in columns.values()), *("" if np.isnan(v) else f"{v:.6f}" for v in row)]
        lines.append(",".join(cells))
    path.write_text("\n".join(lines))


def test_deepface_csv(tmp_path):
    """Percent or probabilities, by frame, by time or in order; empty rows are bridged."""
    truth = np.random.default_rng(1).dirichlet(np.ones(7), 50)
    write_deepface(tmp_path / "a.csv", truth * 100, "emotion.")
    assert np.abs(read_deepface_csv(tmp_path / "a.csv", 50) - truth).max() < 1e-4
    write_deepface(tmp_path / "b.csv", truth, frame=np.arange(50))
    assert np.abs(read_deepface_csv(tmp_path / "b.csv", 50) - truth).max() < 1e-4
    smooth = np.linspace(truth[0], truth[1], 101)
    gone = smooth.copy()
    gone[20:30] = np.nan
    write_deepface(tmp_path / "c.csv", gone, timestamp=np.arange(101) / 50)
    assert np.abs(read_deepface_csv(tmp_path / "c.csv", 50) - smooth[:-1:2]).max() < 1e-4


def test_deepface_csv_that_does_not_fit(tmp_path):
    """Missing emotions, numbers that are no probabilities, another clip."""
    path = tmp_path / "a.csv"
    rows = np.full((50, 7), 1 / 7)
    write_deepface(path, rows, "my_")
    with pytest.raises(ValueError, match="lacks angry"):
        read_deepface_csv(path, 50)
    write_deepface(path, rows * np.linspace(0.5, 1, 50)[:, None])
    with pytest.raises(ValueError, match="expected emotions that sum to 1 or to 100"):
        read_deepface_csv(path, 50)
    write_deepface(path, rows)
    with pytest.raises(ValueError, match="is it of another video"):
        read_deepface_csv(path, 500)
    write_deepface(path, rows * np.nan)
    with pytest.raises(ValueError, match="all rows are marked as failed"):
        read_deepface_csv(path, 50)
