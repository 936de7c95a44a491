"""Reads ICT-FaceKit light (MIT), for every script that needs it.

In: its folder of OBJ files, or an npz of the same. Out: the arrays as stored (`read_ict_arrays`) or in metres
(`read_ict`), and the vertex ranges of its parts (`PARTS`).

The npz has `neutral [N, 3]`, `identity [100, N, 3]` and `expression [57, N, 3]` (offsets), `expression_names`, `faces
[Q, 4]` with -1 for triangles, all in centimetres as in the OBJ files; texture coordinates in it are not read.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ConversionError, check_keys

CENTIMETRE = 0.01
VERTICES = 26719
IDENTITIES = 100
NEUTRAL = "generic_neutral_mesh"
_SIDES = (
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekRaiser", "cheekSquint", "eyeBlink", "eyeLookDown",
    "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown",
    "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)  # fmt: skip
EXPRESSIONS = (
    *(f"{name}_{side}" for name in _SIDES for side in "LR"),
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)  # fmt: skip
OPTIONAL = ("PupilDilate_L", "PupilDilate_R")
_NPZ = ("neutral", "identity", "expression", "expression_names", "faces")
_NPZ_IGNORED = ("uv", "faces_uv")
_LARGEST = 1 << 30  # bytes of one array


# Vertex ranges of the parts that are used. Left out are occlusion shells, tear fluid, outer eyeballs and lash cards.
PARTS = {
    "face": (0, 9409),
    "head": (9409, 11248),
    "mouth": (11248, 13294),
    "sockets": (13294, 14062),
    "gums": (14062, 17039),
    "teeth": (17039, 21451),
    "left_eye": (22221, 23021),
    "right_eye": (23791, 24591),
}
SKIN = (PARTS["face"][0], PARTS["mouth"][1])  # face, head and the inside of the mouth are one connected surface


@dataclass
class IctArrays:
    """As stored, in centimetres: `neutral [N, 3]`, `identity [100, N, 3]`, each of `expression` `[N, 3]` (offsets), and
    `polygons [Q, 4]` with -1 in the last place of triangles."""

    neutral: np.ndarray
    identity: np.ndarray
    expression: dict[str, np.ndarray]
    polygons: np.ndarray

    @property
    def triangles(self) -> np.ndarray:
        """`[T, 3]`: triangles, and quads cut in two."""
        return np.concatenate([self.polygons[:, :3], self.polygons[self.polygons[:, 3] >= 0][:, [0, 2, 3]]])


@dataclass
class IctSource:
    """`neutral [N, 3]`, `identity [100, N, 3]` and each of `expression` `[N, 3]` in metres, `triangles [T, 3]`."""

    neutral: np.ndarray
    identity: np.ndarray
    expression: dict[str, np.ndarray]
    triangles: np.ndarray


def read_ict(path: str | Path) -> IctSource:
    """Reads either form; lengths in metres, float64. Raises as `read_ict_arrays`."""
    arrays = read_ict_arrays(path)
    metres = {name: CENTIMETRE * array.astype(np.float64) for name, array in arrays.expression.items()}
    neutral, identity = (CENTIMETRE * array.astype(np.float64) for array in (arrays.neutral, arrays.identity))
    return IctSource(neutral, identity, metres, arrays.triangles)


def read_ict_arrays(path: str | Path) -> IctArrays:
    """Reads either form; lengths in centimetres, numbers as stored.

    Raises:
        FileNotFoundError: nothing there.
        ConversionError: not ICT-FaceKit light: a shape or file is missing, unexpected or of another size.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"ict: expected ICT-FaceKit as a folder of OBJ files or an npz, but {path} is not there."
        )
    neutral, identity, expression, polygons = _read_folder(path) if path.is_dir() else _read_npz(path)
    what = f"ict: {path.name}"
    check_keys(expression, EXPRESSIONS, OPTIONAL, what)
    shapes = {"neutral": (neutral, (VERTICES, 3)), "identity": (identity, (IDENTITIES, VERTICES, 3))}
    shapes |= {name: (array, (VERTICES, 3)) for name, array in expression.items()}
    for name, (array, shape) in shapes.items():
        if array.shape != shape or not np.isfinite(array).all():
            raise ConversionError(
                f"{what}: expected finite numbers of shape {list(shape)} as {name}, got another array."
            )
    if polygons.ndim != 2 or polygons.shape[1] != 4 or polygons.max() >= VERTICES or polygons[:, :3].min() < 0:
        raise ConversionError(f"{what}: expected quads of vertices 0 to {VERTICES - 1} as faces, got others.")
    return IctArrays(neutral, identity, expression, polygons)


def _read_npz(path: Path) -> tuple:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.file_size > _LARGEST for member in archive.infolist()):
                raise ValueError("an array is too large")
        with np.load(path, allow_pickle=False) as content:
            check_keys(content.files, _NPZ, _NPZ_IGNORED, f"ict: {path.name}")
            data = {name: content[name] for name in _NPZ}
    except ConversionError:
        raise
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ConversionError(f"ict: {path.name} cannot be read as an npz of arrays ({error}).") from error
    names = [str(name) for name in data["expression_names"]]
    if data["expression"].shape[:1] != (len(names),):
        raise ConversionError(
            f"ict: expected one expression for each of {len(names)} names in {path.name}, got another number."
        )
    return data["neutral"], data["identity"], dict(zip(names, data["expression"], strict=True)), data["faces"]


def _read_folder(folder: Path) -> tuple:
    names = {p.stem for p in folder.glob("*.obj")}
    identities = [f"identity{i:03d}" for i in range(IDENTITIES)]
    check_keys(names, (NEUTRAL, *identities, *EXPRESSIONS), OPTIONAL, f"ict: {folder.name}")
    neutral, polygons = _read_obj(folder / f"{NEUTRAL}.obj")
    offsets = {}
    for name in names - {NEUTRAL}:
        vertices, _ = _read_obj(folder / f"{name}.obj", faces=False)
        if vertices.shape != neutral.shape:
            raise ConversionError(
                f"ict: expected {len(neutral)} vertices in {name}.obj as in {NEUTRAL}.obj, got {len(vertices)}."
            )
        offsets[name] = vertices - neutral
    expression = {name: offset for name, offset in offsets.items() if not name.startswith("identity")}
    return neutral, np.stack([offsets[name] for name in identities]), expression, polygons


def _read_obj(path: Path, faces: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Vertices `[N, 3]` and polygons `[Q, 4]` (-1 for triangles) of an OBJ file."""
    vertices, polygons = [], []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("v "):
                    vertices.append([float(x) for x in line.split()[1:4]])
                elif faces and line.startswith("f "):
                    corners = [int(word.split("/")[0]) - 1 for word in line.split()[1:]]
                    if len(corners) not in (3, 4):
                        raise ValueError(f"a face of {len(corners)} corners")
                    polygons.append((corners + [-1])[:4])
        return np.array(vertices, np.float64).reshape(-1, 3), np.array(polygons, np.int64).reshape(-1, 4)
    except (ValueError, OSError) as error:
        raise ConversionError(f"ict: {path.name} cannot be read as an OBJ file ({error}).") from error
