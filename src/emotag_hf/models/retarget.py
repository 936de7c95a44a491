"""Expression and jaw of one parametric head on another: open head, FLAME, ICT-FaceKit, GNM (METHOD 2 and 6).

In: two heads that share MediaPipe's landmarks and the names of regions. Out: a linear map from the coefficients of one
to those of the other (`solve_retarget`), or the other head with expression directions for the first one's coefficients
(`driven_head`), which the embedded motion network can drive.

Each unit of the source moves its landmarks, the gap between its lips and its lower teeth; ridge regression finds the
target's coefficients whose motion is most similar. A similarity transform between the neutral landmarks accounts for
different sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .modeling_head import POSE_FEATURES, HeadAsset, ParametricHead

# Upper and lower inner lip, from the middle outwards (MediaPipe's numbers).
LIP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402), (80, 88), (310, 318))
_LIPS = (
    *(61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146),
    *(78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
)
_LIP_WEIGHT, _GAP_WEIGHT, _TEETH_WEIGHT = 2.0, 4.0, 6.0
_SHARED_REGIONS = ("teeth_lower",)
_JAW_STEP = 0.3  # rad: a typical opening in speech: the secant of the arc fits better than the tangent
_SIDE_STEP = 0.1  # rad, for the jaw's other two axes
# R - I of a joint, row by row: indices of +sin and -sin of a rotation about x, y, z.
_SINES = ((7, 5), (2, 6), (3, 1))
_JAW = 2  # in constants.JOINTS


@dataclass(frozen=True)
class Retarget:
    """A linear map between the faces of two heads.

    Args:
        matrix: `[Kt + 3, Ks + 3]`, from expression and jaw (axis-angle) of the source to those of the target.
        source_names, target_names: of the Ks and Kt expression directions.
        residual: share in [0, 1] of the source's motion that the target's directions cannot reproduce, over all units.
    """

    matrix: Tensor
    source_names: tuple[str, ...]
    target_names: tuple[str, ...]
    residual: float

    def __call__(self, expression: Tensor, jaw_pose: Tensor) -> tuple[Tensor, Tensor]:
        """Expression `[T, Kt]` and jaw `[T, 3]` of the target for those of the source, `[T, Ks]` and `[T, 3]`.

        Raises:
            ValueError: another number of coefficients than the source has.
        """
        expected = (len(self.source_names), 3)
        got = (expression.shape[-1], jaw_pose.shape[-1])
        if got != expected:
            raise ValueError(
                f"expression, jaw_pose: expected {expected[0]} and 3 coefficients, got {got[0]}, {got[1]}."
            )
        face = torch.cat([expression, jaw_pose], -1) @ self.matrix.to(expression).T
        count = len(self.target_names)
        return face[..., :count], face[..., count:]


@torch.no_grad()
def solve_retarget(source: ParametricHead, target: ParametricHead, *, ridge: float = 0.03) -> Retarget:
    """Finds the linear map from `source` to `target`.

    Args:
        ridge: weight of the ridge penalty, relative to the median size of the directions; larger values give smaller
            coefficients and a worse fit.

    Raises:
        ValueError: a head without expression directions, or a negative `ridge`.
    """
    if ridge < 0:
        raise ValueError(f"ridge: expected 0 or more, got {ridge}.")
    for name, head in (("source", source), ("target", target)):
        if not head.num_expression:
            raise ValueError(f"{name}: expected a head with expression directions, got one without.")
    scale, turn, shift = _similarity(_landmarks(source), _landmarks(target))
    shared = [n for n in _SHARED_REGIONS if len(_region(source, n)) and len(_region(target, n))]
    places = [source.v_template[_region(source, n)].mean(0) for n in shared]
    there = [scale * turn @ place + shift for place in places]
    wanted = _responses(source, _probes(source, shared, places)) @ (scale * turn.T)  # [Ks+3, P, 3], target's axes
    given = _responses(target, _probes(target, shared, there))
    weights = _weights(len(shared))[:, None]
    a = (given * weights).flatten(1).T.double()  # [P*3, Kt+3]
    b = (wanted * weights).flatten(1).T.double()
    cost = ridge * a[:, : target.num_expression].norm(dim=0).median()
    matrix = torch.linalg.solve(a.T @ a + cost**2 * torch.eye(a.shape[1]), a.T @ b)
    residual = ((a @ matrix - b).norm() / b.norm().clamp_min(1e-12)).square()
    return Retarget(matrix.float(), source.expression_names, target.expression_names, float(residual))


@torch.no_grad()
def driven_head(target: ParametricHead, retarget: Retarget) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a head asset with the target's shape and expression directions for the source's coefficients.

    Shape, joints, weights and triangles stay. Each expression direction is the target's motion for one unit of the
    source. What the source's jaw moves beyond the target's jaw becomes a corrective of that joint; jaw rotation in an
    expression is linearised.

    Returns:
        tensors of the asset and the names of its expression directions, the source's.
    """
    own, (kt, ks) = target._asset.tensors, (len(retarget.target_names), len(retarget.source_names))
    if retarget.target_names != target.expression_names:
        raise ValueError("retarget: expected a map to this head's expression directions, got one to another head's.")
    matrix = retarget.matrix
    jaw = _jaw_tangent(target)  # [V,3,3]
    basis = own["expression_basis"]
    expression = basis @ matrix[:kt, :ks] + jaw @ matrix[kt:, :ks]
    more = basis @ matrix[:kt, ks:] + jaw @ (matrix[kt:, ks:] - torch.eye(3))  # [V,3,3] by the jaw's sines
    pose = own["pose_basis"].new_zeros(POSE_FEATURES, own["pose_basis"].shape[1])
    pose[own["pose_rows"]] = own["pose_basis"]
    first = 9 * (_JAW - 1)
    for axis, (plus, minus) in enumerate(_SINES):
        half = 0.5 * more[:, :, axis].flatten()
        pose[first + plus] += half
        pose[first + minus] -= half
    rows = pose.abs().sum(1).nonzero()[:, 0]
    tensors = {**own, "expression_basis": expression, "pose_basis": pose[rows], "pose_rows": rows}
    return tensors, retarget.source_names


def driven(target: ParametricHead, retarget: Retarget) -> ParametricHead:
    """`driven_head` as a head in memory; a config needs the file."""
    import json

    tensors, names = driven_head(target, retarget)
    return ParametricHead(HeadAsset(tensors, {**target.metadata, "expression_names": json.dumps(names)}, ""))


def lip_opening(head: ParametricHead, vertices: Tensor) -> Tensor:
    """Metres between the inner lips, `[T]`, the mean over `LIP_PAIRS`, on vertices `[T, V, 3]`."""
    upper, lower = torch.tensor(LIP_PAIRS).T
    points = head.landmarks(vertices)
    return (points[:, upper] - points[:, lower]).norm(dim=-1).mean(-1)


def _landmarks(head: ParametricHead) -> Tensor:
    return head.landmarks(head.v_template[None])[0]


def _region(head: ParametricHead, name: str) -> Tensor:
    return head.region(name) if name in head.region_names else torch.zeros(0, dtype=torch.int64)


def _probes(head: ParametricHead, names: list[str], places: list[Tensor]) -> Tensor:
    """Weights `[n, V]` that measure the motion of rigid regions at the same places of both heads, because the centres
    of differently modelled teeth have different lever arms."""
    out = torch.zeros(len(names), len(head.v_template))
    for row, name, place in zip(out, names, places, strict=True):
        index = _region(head, name)
        around = head.v_template[index] - place
        terms = torch.cat([torch.ones(len(index), 1), around], 1).double()
        row[index] = torch.linalg.pinv(terms)[0].float()
    return out


def _points(head: ParametricHead, probes: Tensor, **motion: Tensor) -> Tensor:
    """The compared points, `[T, P, 3]`: landmarks, gaps between the lips, places in shared regions."""
    vertices = head(**motion).vertices
    landmarks = head.landmarks(vertices)
    upper, lower = torch.tensor(LIP_PAIRS).T
    return torch.cat([landmarks, landmarks[:, upper] - landmarks[:, lower], probes @ vertices], 1)


def _responses(head: ParametricHead, probes: Tensor) -> Tensor:
    """Motion of these points by one unit of each expression direction, then one radian about each axis of the jaw: `[K
    + 3, P, 3]`."""
    rest = _points(head, probes)
    expression = _points(head, probes, expression=torch.eye(head.num_expression)) - rest
    wide = _points(head, probes, jaw_pose=torch.tensor([[_JAW_STEP, 0.0, 0.0]]))
    sides = torch.tensor([[0.0, _SIDE_STEP, 0.0], [0.0, 0.0, _SIDE_STEP]])
    sides = (_points(head, probes, jaw_pose=sides) - _points(head, probes, jaw_pose=-sides)) / (2 * _SIDE_STEP)
    return torch.cat([expression, (wide - rest) / _JAW_STEP, sides])


def _weights(num_regions: int) -> Tensor:
    weights = torch.ones(468)
    weights[list(_LIPS)] = _LIP_WEIGHT
    return torch.cat([weights, torch.full((len(LIP_PAIRS),), _GAP_WEIGHT), torch.full((num_regions,), _TEETH_WEIGHT)])


def _similarity(a: Tensor, b: Tensor) -> tuple[float, Tensor, Tensor]:
    """Scale, rotation `[3, 3]` and shift `[3]` that map points `a` to `b`, `[P, 3]` each."""
    middles = a.mean(0), b.mean(0)
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    u, s, vt = torch.linalg.svd(b.T @ a)
    flip = torch.ones(3, dtype=torch.float64)
    flip[2] = torch.sign(torch.det(u @ vt))
    scale, turn = float((s * flip).sum() / a.square().sum()), ((u * flip) @ vt).float()
    return scale, turn, middles[1] - scale * turn @ middles[0]


def _jaw_tangent(head: ParametricHead, step: float = 1e-3) -> Tensor:
    """Metres per radian `[V, 3, 3]` by which vertices move for a small rotation of the jaw about each axis."""
    turns = step * torch.eye(3)
    moved = head(jaw_pose=turns).vertices.double() - head(jaw_pose=-turns).vertices.double()
    return (moved / (2 * step)).permute(1, 2, 0).float()


__all__ = ["Retarget", "driven", "driven_head", "lip_opening", "solve_retarget"]
