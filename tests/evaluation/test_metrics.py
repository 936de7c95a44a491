"""The metrics of METHOD 7: their definitions on small pictures, an independent scorer on real ones."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import weakref
from itertools import islice

import numpy as np
import pytest

from emotag_hf.constants import ACTION_UNITS
from emotag_hf.evaluation import metrics
from emotag_hf.evaluation.metrics import Scores, action_unit_errors, block_interval, score_frames, score_videos
from emotag_hf.preprocessing.data.frame_files import FrameWriter
from emotag_hf.preprocessing.tracking.head_track import EYE_POINTS, MOUTH_POINTS
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.utils.import_utils import is_available
from emotag_hf.video.video_reader import read_video


def pictures(count: int, height: int = 40, width: int = 32, seed: int = 0) -> np.ndarray:
    """Coarse blocks with noise over them, so that windows have means, spreads and covariances."""
    random = np.random.default_rng(seed)
    coarse = random.integers(40, 200, (count, height // 8, width // 8, 3))
    fine = coarse.repeat(8, 1).repeat(8, 2) + random.integers(-30, 30, (count, height, width, 3))
    return fine.clip(0, 255).astype(np.uint8)


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, window by window."""
    a, b, values = a.astype(float), b.astype(float), []
    for y in range(a.shape[0] - 6):
        for x in range(a.shape[1] - 6):
            for c in range(3):
                u, v = a[y : y + 7, x : x + 7, c].ravel(), b[y : y + 7, x : x + 7, c].ravel()
                (su, suv), (_, sv) = np.cov(u, v)
                means = (2 * u.mean() * v.mean() + 6.5025) / (u.mean() ** 2 + v.mean() ** 2 + 6.5025)
                values.append(means * (2 * suv + 58.5225) / (su + sv + 58.5225))
    return float(np.mean(values))


def test_picture_metrics_are_their_definitions():
    """PSNR, SSIM and flicker, of frame and face box, equal what METHOD 7 writes down."""
    predicted = pictures(4)
    truth = (predicted + pictures(4, seed=1) % 25 - 12.0).clip(0, 255).astype(np.uint8)
    scores = score_frames(predicted, truth, landmarks=False)
    p, t = predicted.astype(float), truth.astype(float)
    dB = lambda a, b: 10 * np.log10(255**2 / ((a - b) ** 2).mean((1, 2, 3)))  # noqa: E731
    face = (slice(None), slice(10, 35), slice(8, 24))
    np.testing.assert_allclose(scores.per_frame["psnr"], dB(p, t), atol=1e-9)
    np.testing.assert_allclose(scores.per_frame["psnr_face_box"], dB(p[face], t[face]), atol=1e-9)
    flicker = np.abs(np.diff(p, axis=0) - np.diff(t, axis=0)).mean((1, 2, 3))
    np.testing.assert_allclose(scores.per_frame["flicker"], [np.nan, *flicker], atol=1e-9)
    for index in (0, 3):
        whole, part = plain_ssim(p[index], t[index]), plain_ssim(p[index, 10:35, 8:24], t[index, 10:35, 8:24])
        np.testing.assert_allclose(scores.per_frame["ssim"][index], whole, atol=1e-9)
        np.testing.assert_allclose(scores.per_frame["ssim_face_box"][index], part, atol=1e-9)
    assert np.isnan(scores.per_frame["ssim"][1:3]).all()
    assert scores.summary().keys() == {"frames", "resized", *scores.per_frame}
    assert scores.summary()["flicker"] == pytest.approx(flicker.mean())


def test_equal_frames():
    """Equal pictures have a finite PSNR, full SSIM and no flicker."""
    summary = score_frames(pictures(3), pictures(3), landmarks=False).summary()
    assert summary["psnr"] == summary["psnr_face_box"] == pytest.approx(138.13, abs=0.01)
    assert summary["ssim"] == pytest.approx(1) and summary["flicker"] == 0


def test_like_scikit_image():
    """SSIM and the change of size are scikit-image's, which the published numbers were measured with."""
    skimage_metrics = pytest.importorskip("skimage.metrics")
    from skimage.transform import resize

    a, b = pictures(2, 64, 48)
    assert metrics._ssim(a, b)[0] == pytest.approx(
        skimage_metrics.structural_similarity(a, b, channel_axis=2), abs=1e-9
    )
    for size in ((128, 96), (40, 48), (25, 70), (17, 19)):
        expected = np.round(resize(a, size, order=1, preserve_range=True, anti_aliasing=True)).astype(int)
        assert np.abs(metrics._resized(a, size) - expected).max() <= 1  # where a sum falls on a half
        assert (metrics._resized(a, size) == expected).mean() > 0.999
    assert (metrics._resized(np.full((30, 20, 3), 77, np.uint8), (21, 51)) == 77).all()


def test_other_sizes_are_told():
    """A prediction of another size is brought to the truth's, and the scores say so."""
    truth = pictures(3, 64, 48)
    half = np.stack([metrics._resized(frame, (32, 24)) for frame in truth])
    scores = score_frames(half, truth, landmarks=False)
    assert scores.resized and scores.summary()["resized"] and scores.summary()["psnr"] < 30
    assert not score_frames(truth, truth, landmarks=False).resized


def test_frames_are_streamed():
    """One-shot iterators are enough, and a long video takes no more memory than a short one."""
    given, most = [], []

    def stream():
        for _ in range(30):
            frame = np.zeros((16, 16, 3), np.uint8)
            given.append(weakref.ref(frame))
            most.append(sum(reference() is not None for reference in given))
            yield frame

    scores = score_frames(stream(), stream(), landmarks=False)
    assert len(scores) == 30 and max(most) <= 4


def test_one_ends_first(caplog):
    """The frames that both have are scored, and the log says which one ended."""
    with caplog.at_level(logging.WARNING):
        scores = score_frames(iter(pictures(5)), pictures(9), landmarks=False)
    assert len(scores) == 5 and "predicted ends after 5 frames" in caplog.text


def test_refusals(tmp_path):
    """What cannot be scored is refused with the argument's name."""
    good = pictures(3)
    changing = [*good[:2], pictures(1, 48, 32)[0]]
    for predicted, truth, sentence in (
        (good.astype(np.float32), good, "predicted: expected uint8 frames"),
        (good, good[..., 0], "truth: expected uint8 frames"),
        (changing, good, r"predicted: .* of one size.* at frame 2"),
        (good, pictures(3, 8, 32), "truth: .* at least 16 pixels"),
        (good[:1], good, "at least two frames of both in that range, got 1"),
        ([], [], "got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            score_frames(predicted, truth, landmarks=False)
    with pytest.raises(FileNotFoundError):
        score_videos(tmp_path / "none.mp4", tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="pred_start: expected a frame number from 0 on, got -1"):
        score_videos("a.mp4", "b.mp4", pred_start=-1)


def test_videos_and_their_ranges(tmp_path):
    """`start`, `stop` and `pred_start` choose the frames that their names say: the same ones are equal, others not."""
    paths = tmp_path / "truth.mkv", tmp_path / "later.mkv"
    frames = pictures(12)
    for path, part in zip(paths, (frames, frames[4:])):
        with FrameWriter(path, 32, 40, "exact colour") as writer:
            for frame in part:
                writer.write(frame)
    same = score_videos(paths[1], paths[0], 5, 9, 1, landmarks=False)
    assert len(same) == 4 and same.summary()["psnr"] > 138
    assert score_videos(paths[0], paths[1], 1, 5, 5, landmarks=False).summary()["psnr"] > 138
    assert score_videos(paths[1], paths[0], 5, 9, 2, landmarks=False).summary()["psnr"] < 30
    assert len(score_videos(paths[0], paths[0], 3, landmarks=False)) == 9
    with pytest.raises(ValueError, match="at least two frames"):
        score_videos(paths[0], paths[0], 5, 5, landmarks=False)


# --- what needs landmarks, with faces made of numbers


def face_points(opening: float, at: tuple[float, float] = (100.0, 100.0), scale: float = 1.0) -> np.ndarray:
    """`[478, 2]`: eyes at -30, the mouth at +30 of `at`, 60 wide, its inner lips `opening` apart, the face 200 high."""
    points = np.zeros((478, 2))
    points[list(EYE_POINTS)] = [(-40, -30), (-15, -30), (-28, -34), (-28, -26), (15, -30), (40, -30), (28, -34),
                                        (28, -26)]  # fmt: skip
    points[list(MOUTH_POINTS)] = [(x, 30) for x in np.linspace(-30, 30, 40)]
    points[13], points[14], points[10], points[152] = (0, 30 - opening / 2), (0, 30 + opening / 2), (0, -100), (0, 100)
    points[list(MOUTH_POINTS)[0]] = (-30, 20)
    points[list(MOUTH_POINTS)[10]] = (30, 40)
    return points * scale + at


@pytest.fixture
def faces(monkeypatch):
    """Puts a list of (prediction's points, truth's points) in MediaPipe's place."""

    def install(found):
        class Pair:
            def __enter__(self):
                self.found = iter(found)
                return self

            def __exit__(self, *error):
                pass

            def look(self, *frames):
                return next(self.found)

        monkeypatch.setattr(metrics, "_FacePair", Pair)

    return install


def test_boxes_follow_the_truth(faces):
    """Mouth and eye boxes hold exactly the pixels of the truth's points and their margins; where the prediction's own
    mouth is does not matter."""
    truth = np.full((11, 200, 200, 3), 100, np.uint8)
    faces([(face_points(4, (120, 90)), face_points(4, (100.5, 100.5)))] * 11)
    predicted = truth + np.random.default_rng(0).integers(0, 90, truth.shape, dtype=np.uint8)
    summary = score_frames(predicted, truth).summary()
    # Mouth: x 70.5 to 130.5, y 120.5 to 140.5 and a fifth of it. Eyes: x 60.5 to 140.5, y 66.5 to 74.5 and a tenth.
    for name, box in (("psnr_mouth", np.s_[:, 118:143, 64:137]), ("psnr_eyes", np.s_[:, 66:75, 56:145])):
        mse = ((predicted[box] - 100.0) ** 2).mean((1, 2, 3))
        assert summary[name] == pytest.approx((10 * np.log10(255**2 / mse)).mean(), abs=1e-9)
    assert summary["lmd_mouth"] == pytest.approx(0, abs=1e-9)  # centred
    assert summary["frames_with_face"] == 11


def test_mouth_distance_is_in_pixels_of_512(faces):
    """LMD does not know where the mouth is, nor how large the picture: 512 high, or half of that."""
    for height in (512, 256):
        scale = height / 512
        moved = face_points(20, (300 * scale, 200 * scale), scale)
        faces([(moved, face_points(4, (150 * scale, 250 * scale), scale))] * 10)
        blank = np.zeros((10, height, height, 3), np.uint8)
        mouth = list(MOUTH_POINTS)
        a, b = face_points(20)[mouth], face_points(4)[mouth]
        expected = np.linalg.norm((a - a.mean(0)) - (b - b.mean(0)), axis=1).mean()
        assert score_frames(blank, blank).summary()["lmd_mouth"] == pytest.approx(expected) and expected > 0.3


def test_lips_that_are_late(faces):
    """Lips three frames behind the truth's are found to be so, whatever their size and the head's; earlier ones have a
    negative lag."""
    opening = 6 + 4 * np.random.default_rng(0).standard_normal(60).cumsum().clip(-1, 1)
    for lag in (3, -2):
        late = np.roll(opening, lag)
        faces([(face_points(1 + 0.4 * a, scale=0.9), face_points(b)) for a, b in zip(late, opening)])
        blank = np.zeros((60, 240, 240, 3), np.uint8)
        scores = score_frames(blank, blank)
        summary = scores.summary()
        assert summary["lip_lag"] == lag and summary["lip_r"] < 0.95 < summary["lip_r_at_lag"]
        low, high = scores.interval("lip_r_at_lag")
        assert 0.9 < low <= summary["lip_r_at_lag"] <= high <= 1 + 1e-9
        np.testing.assert_allclose(scores.per_frame["lip_opening_truth"], opening / 200, atol=1e-9)


def test_frames_without_a_face(faces):
    """A frame in which one of the two shows no face does not count; with fewer than ten left, nothing that needs
    landmarks is told, and no NaN comes out."""
    blank = np.zeros((12, 200, 200, 3), np.uint8)
    seen = face_points(4), face_points(5)
    for missing, told in ((2, True), (3, False)):
        faces([(None, seen[1])] * (missing - 1) + [(seen[0], None)] + [seen] * (12 - missing))
        scores = score_frames(blank, blank)
        summary = scores.summary()
        assert summary["frames_with_face"] == 12 - missing
        assert ("psnr_mouth" in summary) == ("lmd_mouth" in summary) == ("lip_r" in summary) == told
        assert all(math.isfinite(value) for value in summary.values())
    with pytest.raises(ValueError, match="name: expected one of psnr, .*, got 'lip_r'"):
        scores.interval("lip_r")
    assert scores.intervals() == {}  # twelve frames


def test_action_units():
    """AUE is a sum over action units of mean squared errors, and each unit stands in its half of the face."""
    truth = np.random.default_rng(0).uniform(0, 5, (20, 14))
    for name in ACTION_UNITS:
        wrong = truth.copy()
        wrong[:10, ACTION_UNITS.index(name)] += 2
        upper, lower = action_unit_errors(wrong, truth)
        is_upper = name in ("AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU45")
        assert (upper.mean(), lower.mean()) == pytest.approx((2.0, 0.0) if is_upper else (0.0, 2.0)), name
    scores = Scores({"psnr": np.zeros(20), "flicker": np.zeros(20)})
    wrong = truth + 1
    wrong[3] = np.nan
    summary = scores.with_action_units(wrong, truth).summary()
    assert (summary["aue_upper"], summary["aue_lower"]) == pytest.approx((7, 7))
    with pytest.raises(ValueError, match=r"truth: expected action units of shape \[20, 14\], got \[19, 14\]"):
        action_unit_errors(truth, truth[1:])
    with pytest.raises(ValueError, match="predicted: expected action units of 20 frames, got 5"):
        scores.with_action_units(truth[:5], truth[:5])


def test_intervals_know_that_neighbours_are_alike():
    """The interval is always the same, holds the mean, is far wider than single frames would make it where neighbours
    are alike, and hits the true mean about as often as its docstring says."""
    random = np.random.default_rng(0)

    def series(phi):
        values = np.zeros(375)
        for t in range(1, 375):
            values[t] = phi * values[t - 1] + math.sqrt(1 - phi**2) * random.standard_normal()
        return values

    values = series(0.8)
    low, high = block_interval(values)
    assert (low, high) == block_interval(values.copy()) and low < values.mean() < high
    naive = 3.92 * values.std() / math.sqrt(375)
    assert 1.7 * naive < high - low < 4 * naive
    alone = series(0.0)
    low, high = block_interval(alone)
    assert high - low == pytest.approx(3.92 * alone.std() / math.sqrt(375), rel=0.35)
    hits = [low <= 0 <= high for low, high in (block_interval(series(0.8)) for _ in range(60))]
    assert 0.7 < np.mean(hits) < 0.97
    assert block_interval(np.full(40, 3.0)) == (3.0, 3.0)
    with pytest.raises(ValueError, match="values: expected at least 30 frames for an interval, got 29"):
        block_interval(values[:29])


def test_intervals_of_scores(faces):
    """Every number but the lag has an interval around it; what is measured in some frames only has one too."""
    random = np.random.default_rng(1)
    truth, noise = pictures(45, 208, 208), random.integers(0, 20, (45, 208, 208, 3), dtype=np.uint8)
    openings = random.uniform(2, 9, (45, 2)) + random.uniform(0, 9, (45, 1))
    faces([(face_points(a), face_points(b)) for a, b in openings])
    scores = score_frames(truth // 2 + noise, truth // 2)
    summary, intervals = scores.summary(), scores.intervals()
    assert intervals.keys() == summary.keys() - {"frames", "resized", "frames_with_face", "lip_lag"}
    for name, (low, high) in intervals.items():
        assert low <= summary[name] <= high, name
        assert (low, high) == scores.interval(name)


# --- with MediaPipe, on real faces


@pytest.mark.real_data
@pytest.mark.skipif(not is_available("mediapipe"), reason="MediaPipe is not installed: emotag setup tracking")
def test_same_landmarks_as_tracking(test_data):
    """Following a face frame by frame gives the points that tracking the whole video gives, to the bit."""
    path = test_data / "data" / "published" / "emotional_happy__ins.mp4"
    frames = list(islice(read_video(path).frames(), 20))
    expected = track_landmarks(frames, 512, 512).points[..., :2]
    with metrics._FacePair() as pair:
        found = [pair.look(frame, frames[0])[0] for frame in frames]
    np.testing.assert_array_equal(np.stack(found), expected)


@pytest.mark.real_data
@pytest.mark.skipif(not is_available("mediapipe"), reason="MediaPipe is not installed: emotag setup tracking")
def test_agrees_with_the_independent_scorer(test_data):
    """Another program, with scikit-image and plain Face Mesh, says the same of a published video's first 30 frames."""
    pytest.importorskip("skimage")
    folder = test_data / "data" / "published"
    paths = [str(folder / f"neutral_may__{who}.mp4") for who in ("ins", "gt")]
    scorer = test_data / "tools" / "score_video.py"
    run = subprocess.run([sys.executable, str(scorer), *paths, "--stop", "30"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs, ours = json.loads(run.stdout), score_videos(*paths, stop=30).summary()
    tolerance = dict.fromkeys(("psnr", "psnr_face_box", "flicker"), 0.01) | {"ssim": 1e-4, "lmd_mouth": 0.1}
    tolerance |= {"psnr_mouth": 0.3, "psnr_eyes": 0.3, "lip_r": 0.05, "frames": 0, "frames_with_face": 0}
    for name, limit in tolerance.items():
        assert abs(ours[name] - theirs[name]) <= limit, f"{name}: {ours[name]} here, {theirs[name]} there"
