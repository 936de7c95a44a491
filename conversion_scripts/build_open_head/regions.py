"""Named regions of the skin: in comes the skin, out come bool masks by name. Generous, for painters.

Bounds are in metres in the template's frame (origin between the eyeballs) and were set by looking at renders.
"""

from __future__ import annotations

import numpy as np
from lip_lines import red_height
from skin import Skin
from source import SOCKET_START, Source

HAIR_FROM = 9409  # the source's second piece starts at the hairline


def skin_regions(source: Source, skin: Skin) -> dict[str, np.ndarray]:
    """Bool masks [n] over the skin."""
    p = skin.part.points
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    outer = ~skin.bag & ~skin.inside_lips & ~skin.sleeve & (skin.bust == 0)
    fitted_back = np.asarray(skin.mix[:, HAIR_FROM:SOCKET_START].sum(1)).ravel() > 0.5
    ears = outer & _ears(x, y, z)
    neckline = -0.150 - 0.10 * np.minimum(z + 0.075, 0) * 2.0
    torso = (skin.bust > 0) | (outer & (y < -0.166))
    scalp = outer & fitted_back & ~ears & (y > -0.095 + 0.9 * np.maximum(z + 0.10, 0))
    chin_line = -0.118 + 0.55 * np.minimum(z - 0.01, 0)
    face = outer & ~fitted_back & ~ears & (y > np.minimum(chin_line, neckline * 0 + chin_line)) & (z > -0.075)
    neck = outer & ~face & ~scalp & ~ears & ~torso
    red = _vermilion(skin)
    lids = outer & (skin.lid_distance < 0.0085) & (x > 0.012)
    above = _above_opening(skin)
    out = {
        "face": face,
        "scalp": scalp & ~face,
        "ears": ears,
        "neck": neck,
        "torso": torso,
        "upper_lip": red & skin.upper_lip,
        "lower_lip": red & ~skin.upper_lip,
        "lips": red,
        "nose": face & _nose(x, y, z),
        "brows": face & _brows(x, y),
        "lids": lids,
        "lashes": (skin.lid_distance < 0.0016) & ~skin.sleeve & outer,
        "mouth_interior": skin.bag & ~red,
        "inner_lids": skin.sleeve | (skin.lid_distance < 0.0004),
    }
    for name, row in zip(("lip_seam_upper", "lip_seam_lower"), skin.lips, strict=True):
        out[name] = np.isin(np.arange(len(p)), row)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        own = lids & (sign * p[:, 0] > 0)
        out[f"upper_lid_{side}"], out[f"lower_lid_{side}"] = own & above, own & ~above
    return out


def _ears(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    # the ear stands off the head behind a slanted plane
    return (x > 0.0735 + 0.10 * (z + 0.075)) & (y > -0.062) & (y < 0.030) & (z < -0.052) & (z > -0.125)


def _vermilion(skin: Skin) -> np.ndarray:
    """The red of the lips, outside and the wet part up to the mouth bag."""
    height = red_height(skin.part.points[:, 0], skin.upper_lip) - 0.0004
    inner = (skin.mouth_distance < height) & ~skin.sleeve & (skin.bust == 0)
    return inner | skin.red_border | np.isin(np.arange(len(inner)), np.concatenate(skin.lips))


def _nose(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    half = np.interp(y, [-0.056, -0.050, -0.036, -0.015, 0.004], [0.010, 0.019, 0.0195, 0.0115, 0.009])
    return (x < half) & (y > -0.0545) & (y < 0.006) & (z > 0.012)


def _brows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    middle = np.interp(x, [0.010, 0.022, 0.036, 0.050], [0.0165, 0.0200, 0.0215, 0.0150])
    half = np.interp(x, [0.010, 0.020, 0.050], [0.0052, 0.0050, 0.0032])
    return (np.abs(y - middle) < half) & (x > 0.009) & (x < 0.053)


def _above_opening(skin: Skin) -> np.ndarray:
    """Whether a vertex is above the line from canthus to canthus through the middle of the opening."""
    p, (upper, lower) = skin.part.points, skin.lids["left"]
    middle = 0.5 * (p[upper] + p[lower])
    order = np.argsort(middle[:, 0])
    return p[:, 1] > np.interp(np.abs(p[:, 0]), middle[order, 0], middle[order, 1])
