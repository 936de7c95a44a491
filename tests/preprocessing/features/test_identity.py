"""The identity embedding: frames, alignment, the default descriptor, a user's network."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.features.face_alignment import (
    ALIGNED_POINTS,
    align_face,
    five_points,
    similarity_transform,
)
from emotag_hf.preprocessing.features.face_texture import FaceTexture
from emotag_hf.preprocessing.features.identity import (
    SOURCE_DESCRIPTOR,
    identity_embedding,
    load_onnx_embedder,
    neutral_frames,
    sharpness,
)
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering.cameras import Camera
from emotag_hf.rendering.mesh import rasterize_mesh

SIZE = 160


@pytest.fixture(scope="module")
def head() -> ParametricHead:
    return ParametricHead.from_asset()


def track_of(head: ParametricHead, motion: FlameMotion, shape: torch.Tensor, size: int = SIZE) -> HeadTrack:
    """A track that found exactly this motion, with the landmarks where its head has them."""
    camera = Camera.portrait(size, target=(0, -0.03, 0), distance=0.9)
    frames, ones = len(motion), torch.ones(len(motion))
    points = head.landmarks(head(shape=shape[None], **motion.head_inputs()).vertices)
    seen = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    landmarks = torch.zeros(frames, 478, 3)
    landmarks[:, :468, :2] = (seen @ camera.K.T)[..., :2] / seen[..., 2:]
    return HeadTrack(
        motion=motion, shape=shape, camera=camera, valid=ones.bool(), confidence=ones.clone(), error=ones,
        held_out_error=ones, landmarks=landmarks, head_sha256=head.sha256,
    )  # fmt: skip


class Person:
    """Somebody made up: a head's shape, a skin of random waves over the template, lips and brows of some colour."""

    def __init__(self, head: ParametricHead, seed: int):
        random = torch.Generator().manual_seed(seed)
        self.head, self.shape = head, torch.randn(head.num_shape, generator=random)
        skin = 0.3 + 0.5 * torch.rand(3, generator=random)
        waves = torch.randn(3, 12, generator=random) * 60
        sizes = 0.08 * torch.randn(12, 3, generator=random)
        colours = skin + torch.sin(head.v_template @ waves) @ sizes
        for region in ("lips", "brows", "iris"):
            colours[head.region(region)] = torch.rand(3, generator=random) * 0.6
        self.colours = colours.clamp(0.02, 0.95)

    def film(self, motion: FlameMotion, light: float = 1.0) -> tuple[HeadTrack, list[np.ndarray]]:
        track = track_of(self.head, motion, self.shape)
        vertices = self.head(shape=self.shape[None], **motion.head_inputs()).vertices
        return track, [self._picture(v, track.camera, light) for v in vertices]

    def _picture(self, vertices: torch.Tensor, camera: Camera, light: float) -> np.ndarray:
        seen = vertices @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        buffers = rasterize_mesh(seen, self.head.faces, camera.K, SIZE, SIZE)
        corners = self.colours[self.head.faces[torch.from_numpy(buffers.face_index.astype(np.int64)).clamp_min(0)]]
        picture = (corners.numpy() * buffers.barycentric[..., None]).sum(2) * light
        return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def motion(num_frames: int, seed: int, yaw: float = 0.0) -> FlameMotion:
    """Somebody who speaks and looks around, around a turn of `yaw`."""
    random = np.random.default_rng(seed)
    out = FlameMotion.zeros(num_frames)
    wave = np.sin(np.linspace(0, 6, num_frames) + random.uniform(0, 6))
    out.rotation[:, 1] = torch.from_numpy(yaw + 0.15 * wave).float()
    out.jaw_pose[:, 0] = torch.from_numpy(0.08 * (1 + wave)).float()
    out.expression[:, 36:38] = torch.from_numpy(0.2 * (1 - wave))[:, None].float()
    out.eyelids[:] = 0.2
    return out


def test_same_person_and_another(head):
    """The same person in another pose, expression and light is nearer than anybody else."""
    vectors = []
    for seed in range(4):
        person = Person(head, seed)
        for film in (person.film(motion(4, 1)), person.film(motion(4, 2, yaw=0.25), light=0.8)):
            vector, source = identity_embedding(*film, head)
            assert vector.shape == (512,) and vector.dtype == np.float32 and source == SOURCE_DESCRIPTOR
            assert abs(np.linalg.norm(vector) - 1) < 1e-5
            vectors.append(vector)
    similarity = np.stack(vectors) @ np.stack(vectors).T
    same = np.array([similarity[2 * i, 2 * i + 1] for i in range(4)])
    other = similarity[np.kron(np.eye(4), np.ones((2, 2))) == 0]
    assert same.min() > 0.85 and same.min() > other.max() + 0.05, (same, other.max())


def test_deterministic(head):
    """The numbers are the same in every run: they end up in clips and condition trained networks."""
    film = Person(head, 3).film(motion(4, 1))
    first, again = identity_embedding(*film, head)[0], identity_embedding(*film, head)[0]
    assert np.array_equal(first, again)


def test_texture_does_not_see_the_pose(head):
    """Eyes and mouth stay at their places in the texture while the head turns and speaks."""
    person = Person(head, 1)
    poses = motion(2, 1)
    poses.rotation[:, 1] = torch.tensor([-0.2, 0.2])
    poses.jaw_pose[:, 0], poses.expression[:] = 0, 0
    track, pictures = person.film(poses)
    vertices = head(shape=person.shape[None], **poses.head_inputs()).vertices
    texture = FaceTexture(head)
    left, right = (texture(p, v, track.camera) for p, v in zip(pictures, vertices, strict=True))
    inner = (slice(4, 28), slice(8, 24))
    assert np.abs(left - right)[inner].mean() < 0.03 < np.abs(left - left[:, ::-1])[inner].mean()
    with pytest.raises(ValueError, match="^frame: expected 160x160 RGB"):
        texture(pictures[0][:100], vertices[0], track.camera)


def test_neutral_frames(head):
    """Of all frames the neutral, frontal, sure ones are taken; no more than asked for, and never an invalid one."""
    poses = FlameMotion.zeros(60)
    poses.expression[:20, 36:38] = 1.0  # smiles
    poses.rotation[20:30, 1] = 0.8  # looks away
    track = track_of(head, poses, torch.zeros(head.num_shape))
    track.valid[50:] = False
    track.confidence[30:35] = 0.2
    chosen = neutral_frames(track, count=15)
    assert sorted(chosen) == list(range(35, 50))
    score = np.zeros(60)
    score[35:40] = 0.9
    assert set(neutral_frames(track, score, count=10)) == set(range(40, 50))
    assert len(neutral_frames(track, count=500)) == 50
    track.valid[:] = False
    track.valid[7] = True
    assert neutral_frames(track).tolist() == [7]
    track.valid[7] = False
    with pytest.raises(ValueError, match="^track: expected a valid frame"):
        neutral_frames(track)
    track.valid[:] = True
    with pytest.raises(ValueError, match=r"^emotion_score: expected \[60\]"):
        neutral_frames(track, score[:10])


def test_neck_counts_as_turning(head):
    """A head that is turned by its neck looks away as much as one that is turned at the root."""
    poses = FlameMotion.zeros(10)
    poses.neck_pose[:5, 1] = 0.7
    track = track_of(head, poses, torch.zeros(head.num_shape))
    assert sorted(neutral_frames(track, count=5)) == [5, 6, 7, 8, 9]


def test_blurred_frames_are_left_out(head):
    """Among equally neutral frames the sharp ones are described."""
    poses = FlameMotion.zeros(9)
    track, pictures = Person(head, 2).film(poses)
    for k in (0, 1, 3, 4, 6, 7):
        small = Image.fromarray(pictures[k]).resize((20, 20), Image.Resampling.BOX)
        pictures[k] = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert sharpness(pictures[2]) > sharpness(pictures[0])
    seen = []

    def embedder(faces: np.ndarray) -> np.ndarray:
        seen.append([sharpness(face) for face in faces])
        return np.ones((len(faces), 512))

    identity_embedding(track, pictures, head, embedder=embedder)
    assert len(seen[0]) == 3 and np.ptp(seen[0]) < 1e-9  # the three sharp ones, of which there is one picture


def test_frames_are_read_one_by_one(head):
    """A long clip costs at most 48 pictures; the frames are never asked for as a whole."""
    poses = FlameMotion.zeros(200)
    track = track_of(head, poses, torch.zeros(head.num_shape))
    picture = Person(head, 2).film(FlameMotion.zeros(1))[1][0]
    read = []

    class Lazy:
        def __len__(self):
            return 200

        def __getitem__(self, index):
            read.append(index)
            return picture

    identity_embedding(track, Lazy(), head)
    assert len(read) == len(set(read)) == 48 and all(type(k) is int for k in read)


def test_users_network(head):
    """A user's network gets aligned faces, its vectors are normalised before and after the mean, its name is kept."""
    track, pictures = Person(head, 2).film(motion(6, 1))
    shapes = []

    def embedder(faces: np.ndarray) -> np.ndarray:
        shapes.append((faces.shape, faces.dtype))
        out = np.zeros((len(faces), 512))
        out[:, 0], out[0, 1] = 1.0, 100.0
        return out

    vector, source = identity_embedding(track, pictures, head, embedder=embedder, source="adaface_ir101")
    assert shapes == [((2, 112, 112, 3), np.uint8)] and source == "adaface_ir101"
    mean = np.array([(1 / math.hypot(1, 100) + 1) / 2, 100 / math.hypot(1, 100) / 2])
    assert np.allclose(vector[:2], mean / np.linalg.norm(mean), atol=1e-6)
    with pytest.raises(ValueError, match=r"^embedder: expected finite numbers \[2, 512\], got shape \[2, 128\]"):
        identity_embedding(track, pictures, head, embedder=lambda faces: np.ones((len(faces), 128)))


def test_other_clips_and_heads(head):
    """Frames of another clip, or a track of another head, are refused."""
    track, pictures = Person(head, 2).film(motion(3, 1))
    with pytest.raises(ValueError, match="^frames: expected 3 as in the track, got 2"):
        identity_embedding(track, pictures[:2], head)
    track.head_sha256 = "0" * 64
    with pytest.raises(ValueError, match="^head: expected the head that the track was fitted with"):
        identity_embedding(track, pictures, head)


def test_alignment():
    """Eyes, nose and mouth come to ArcFace's places, whatever their size and turn, as far as a similarity can."""
    angle, scale = 0.4, 3.1
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    five = (ALIGNED_POINTS + 0.5) @ turn.T + [300, 90]
    landmarks = np.zeros((478, 3))
    for rows, point in zip(((33, 133), (362, 263), (1,), (61,), (291,)), five, strict=True):
        landmarks[list(rows), :2] = point
    assert np.allclose(five_points(landmarks), five)
    frame = np.zeros((600, 700, 3), np.uint8)
    y, x = np.mgrid[:600, :700] + 0.5
    for i, (px, py) in enumerate(five):
        frame[(x - px) ** 2 + (y - py) ** 2 < 6**2] = 50 * (i + 1)
    face = align_face(frame, landmarks)
    assert face.shape == (112, 112, 3)
    for i, (px, py) in enumerate(np.round(ALIGNED_POINTS).astype(int)):
        patch = face[py - 5 : py + 6, px - 5 : px + 6, 0].astype(float)
        rows, columns = np.mgrid[-5:6, -5:6]
        centre = np.array([(columns * patch).sum(), (rows * patch).sum()]) / patch.sum() + [px, py]
        assert np.abs(centre - ALIGNED_POINTS[i]).max() < 0.35, i  # half a pixel off would be another convention
        assert abs(patch.max() - 50 * (i + 1)) < 10 + 10 * i  # the filter overshoots a little
    with pytest.raises(ValueError, match="^landmarks: expected finite pixels"):
        align_face(frame, landmarks * np.nan)


def test_similarity_transform():
    """The known map comes back; a mirrored face is not mirrored back; one point is no face."""
    points = np.random.default_rng(0).random((5, 2)) * 100
    known = np.array([[0.6, -1.1, 5.0], [1.1, 0.6, -7.0]])
    assert np.allclose(similarity_transform(points, points @ known[:, :2].T + known[:, 2]), known)
    mirrored = similarity_transform(points, points * [-1, 1])
    assert np.linalg.det(mirrored[:, :2]) > 0
    with pytest.raises(ValueError, match="^source: expected points that differ"):
        similarity_transform(np.ones((5, 2)), points)


def test_onnx_embedder(tmp_path, monkeypatch):
    """An ONNX file is run as ArcFace's exports expect: one face at a time, channels first, in [-1, 1]."""
    calls = []

    class Session:
        def __init__(self, path, providers):
            if Path(path).read_bytes() != b"onnx":
                raise RuntimeError("Protobuf parsing failed")

        def get_inputs(self):
            return [SimpleNamespace(name="input.1")]

        def run(self, outputs, inputs):
            calls.append(inputs["input.1"])
            return [np.full((1, 512), len(calls), np.float32)]

    monkeypatch.setitem(
        sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session, __spec__=SimpleNamespace())
    )
    path = tmp_path / "arcface.onnx"
    path.write_bytes(b"onnx")
    embedder = load_onnx_embedder(path)
    faces = np.zeros((2, 112, 112, 3), np.uint8)
    faces[1, ..., 0] = 255
    assert embedder(faces)[:, 0].tolist() == [1, 2] and embedder.source == "arcface.onnx"
    assert calls[1].shape == (1, 3, 112, 112) and calls[1].dtype == np.float32
    assert calls[1][0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="^path: expected an ONNX file, but onnxruntime cannot read .*parsing failed"):
        load_onnx_embedder(path)


def test_weights_that_can_run_code(tmp_path, monkeypatch):
    """Pickles and TorchScript are refused; a missing onnxruntime is named with the line that installs it."""
    for name in ("adaface.pt", "adaface.ckpt", "missing.onnx"):
        if name != "missing.onnx":
            (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match="^path: expected an existing ONNX file"):
            load_onnx_embedder(tmp_path / name)
    (tmp_path / "a.onnx").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        load_onnx_embedder(tmp_path / "a.onnx")
