"""The embedded open head as a face: closed lids and lips, sides, jaw, regions, landmarks and triangle orientation."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.models.modeling_head import ParametricHead

MM = 1e-3
EXACT = "donot_use_mm_for_euclid_dist"  # the default rounds at a tenth of a millimetre


@pytest.fixture(scope="module")
def head() -> ParametricHead:
    return ParametricHead.from_asset(None)


def pose(head: ParametricHead, **motion) -> torch.Tensor:
    """Vertices [V,3]; `expression` may be a dict of names."""
    named = motion.pop("expression", None)
    tensors = {k: torch.tensor([v], dtype=torch.float32) for k, v in motion.items()}
    if named:
        tensors["expression"] = torch.zeros(1, 50)
        for name, value in named.items():
            tensors["expression"][0, EXPRESSION_NAMES.index(name)] = value
    return head(**tensors).vertices[0]


def lid_gap(head: ParametricHead, vertices: torch.Tensor) -> torch.Tensor:
    return (vertices[head.lid_rims[:, 0]] - vertices[head.lid_rims[:, 1]]).norm(dim=-1)


def eye_clearance(head: ParametricHead, vertices: torch.Tensor) -> float:
    """Least distance in metres of the lids' outer skin and edge from the eyeballs' surfaces."""
    inner = set(head.region("inner_lids").tolist())
    clear = []
    for side in ("left", "right"):
        eye = vertices[head.region(f"{side}_eye")]
        centre = (head.joint_regressor[3 if side == "left" else 4] @ vertices)[None]
        radius = (eye - centre).norm(dim=1).max()
        lids = torch.cat([head.region(f"{part}_lid_{side}") for part in ("upper", "lower")])
        lids = torch.tensor([v for v in lids.tolist() if v not in inner])
        lids = torch.cat([lids, head.lid_rims[0 if side == "left" else 1].flatten()])  # the visible edge itself
        clear.append(((vertices[lids] - centre).norm(dim=1) - radius).min().item())
    return min(clear)


def normals(head: ParametricHead, vertices: torch.Tensor) -> torch.Tensor:
    a, b, c = vertices[head.faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def test_size_and_frame(head):
    """Protects the conventions: thousands of vertices, metres, looking along +z, an adult's distance of the eyes."""
    v = head.v_template
    assert 3000 <= len(v) <= 8000
    eyes = (head.joint_regressor @ v)[3:]
    assert 0.060 < (eyes[0, 0] - eyes[1, 0]).item() < 0.066
    assert eyes[:, 1:].abs().max() < 1e-4  # the origin is between the eyeballs
    assert v[head.region("nose"), 2].max() == v[:, 2].max()
    assert torch.allclose(head.joint_regressor.sum(1), torch.ones(5), atol=1e-4)
    assert torch.allclose(head.lbs_weights.sum(1), torch.ones(len(v)), atol=1e-5) and head.lbs_weights.min() >= 0


def test_lids_shut_and_slide_over_the_eyeball(head):
    """Protects blinks: shut lids meet, and on the way no lid passes through the eyeball."""
    assert lid_gap(head, head.v_template).max() > 7 * MM
    assert lid_gap(head, pose(head, eyelids=[1.0, 1.0])).max() < 0.3 * MM
    for closure in (0.0, 0.25, 0.5, 0.75, 1.0):
        assert eye_clearance(head, pose(head, eyelids=[closure, closure])) > 0.25 * MM, closure


def test_lids_shut_for_everyone(head):
    """Protects blinks of other people: identity and expression change the opening, closure 1 still shuts it."""
    g = torch.Generator().manual_seed(3)
    shape = torch.randn(8, head.num_shape, generator=g)
    expression = torch.zeros(1, 50)
    expression[0, [EXPRESSION_NAMES.index(n) for n in ("eyeWide_L", "eyeSquint_R", "browDown_L")]] = 0.7
    out = head(shape=shape, expression=expression, eyelids=torch.ones(1, 2)).vertices
    assert max(lid_gap(head, v).max().item() for v in out) < 0.3 * MM


def test_one_lid_is_its_own(head):
    """Protects winks: the first number is the person's left (+x) eye and leaves the right one alone."""
    moved = (pose(head, eyelids=[1.0, 0.0]) - head.v_template).norm(dim=1) > 0.1 * MM
    assert moved.any() and (head.v_template[moved, 0] > 0).all()


def lip_gap(head: ParametricHead, vertices: torch.Tensor) -> float:
    """Largest distance in metres from the seam of the upper lip to the nearest vertex of the lower one."""
    upper, lower = head.region("lip_seam_upper"), head.region("lip_seam_lower")
    return torch.cdist(vertices[upper], vertices[lower], compute_mode=EXACT).min(1).values.max().item()


def test_lips_meet_at_rest(head):
    """Protects the neutral mouth: lips touch from corner to corner."""
    assert lip_gap(head, head.v_template) < 0.3 * MM
    assert lip_gap(head, pose(head, jaw_pose=[0.3, 0, 0])) > 8 * MM


def test_lips_meet_for_everyone_and_in_p_b_m(head):
    """Protects speech: other people's lips meet too, smiling lips stay shut, mouthClose shuts them over an open jaw."""
    g = torch.Generator().manual_seed(5)
    for v in head(shape=torch.randn(6, head.num_shape, generator=g)).vertices:
        assert lip_gap(head, v) < 0.3 * MM
    assert lip_gap(head, pose(head, expression={"mouthSmile_L": 1.0, "mouthSmile_R": 1.0})) < 0.3 * MM
    for jaw in (0.06, 0.12, 0.22):
        assert lip_gap(head, pose(head, expression={"mouthClose": jaw / 0.442}, jaw_pose=[jaw, 0, 0])) < 0.7 * MM


def test_left_and_right(head):
    """Protects names: every _L direction moves the +x side most and mirrors its _R."""
    tree_x = head.v_template[:, 0]
    for i, name in enumerate(EXPRESSION_NAMES):
        if not name.endswith("_L"):
            continue
        size = head.expression_basis[:, :, i].norm(dim=1)
        other = head.expression_basis[:, :, EXPRESSION_NAMES.index(name[:-1] + "R")].norm(dim=1)
        assert size[tree_x > 0].sum() > 2 * size[tree_x < 0].sum(), name
        assert abs(size.sum() - other.sum()) < 0.03 * size.sum(), name
    for i, name in ((EXPRESSION_NAMES.index("mouthLeft"), 1), (EXPRESSION_NAMES.index("jawRight"), -1)):
        assert head.expression_basis[head.region("lower_lip"), 0, i].mean() * name > 2 * MM


def test_template_is_symmetric(head):
    """Protects the topology: each vertex has a partner at -x."""
    v = head.v_template
    mirrored = v * torch.tensor([-1.0, 1, 1])
    nearest = torch.cat([torch.cdist(part, v, compute_mode=EXACT).min(1).values for part in mirrored.split(1500)])
    assert nearest.max() < 0.02 * MM


def test_every_direction_does_something(head):
    """Protects the fifty names: no direction is empty, none is wild."""
    size = head.expression_basis.norm(dim=1).max(0).values
    assert (size > 1 * MM).all() and (size < 45 * MM).all()


def test_jaw_opens_downwards(head):
    """Protects the jaw: +x opens, lower teeth ride on it rigidly, upper teeth and cranium stay."""
    opened = pose(head, jaw_pose=[0.35, 0, 0])
    move = opened - head.v_template
    lower, upper = head.region("teeth_lower"), head.region("teeth_upper")
    front = lower[head.v_template[lower, 2].argmax()]
    assert move[front, 1] < -25 * MM and move[upper].norm(dim=1).max() < 1e-6
    assert move[head.v_template[:, 1] > 0.03].norm(dim=1).max() < 0.5 * MM
    before, after = (torch.pdist(v[lower[::7]]) for v in (head.v_template, opened))
    assert (before - after).abs().max() < 1e-5
    assert move[head.region("lower_lip"), 1].mean() < -12 * MM


def test_eyes_turn_about_themselves(head):
    """Protects gaze: +y turns both eyes to the person's left, and nothing else moves."""
    moved = pose(head, eyes_pose=[0.0, 0.3, 0.0, 0.0, 0.3, 0.0])
    for side in ("left_eye", "right_eye"):
        pupil = [i for i in head.region("pupil").tolist() if i in set(head.region(side).tolist())]
        assert (moved - head.v_template)[pupil, 0].mean() > 2 * MM
    eyes = torch.cat([head.region("left_eye"), head.region("right_eye")])
    rest = torch.ones(len(moved), dtype=torch.bool)
    rest[eyes] = False
    assert (moved - head.v_template)[rest].norm(dim=1).max() < 1e-6


def test_no_triangle_inverts(head):
    """Protects shading: identities at two standard deviations and each direction at 1 keep triangles upright."""
    rest = normals(head, head.v_template)
    assert rest.norm(dim=1).min() > 1e-10
    for sign in (2.0, -2.0):
        for v in head(shape=torch.eye(head.num_shape)[:20] * sign).vertices:
            assert ((normals(head, v) * rest).sum(1) > 0).all()
    turning = {"mouthRollLower", "mouthRollUpper", "mouthClose"}  # they roll the lips over
    quiet = [i for i, n in enumerate(EXPRESSION_NAMES) if n not in turning]
    for v in head(expression=torch.eye(50)[quiet]).vertices:
        upset = ((normals(head, v) * rest).sum(1) < 0).nonzero()[:, 0]
        place = head.v_template[head.faces[upset]].mean(1)
        assert len(upset) <= 6 and (place[:, 0].abs() > 0.018).all()  # only in the fold of the mouth's corners
        assert rest[upset].norm(dim=1).sum() < 10e-6


def test_regions(head):
    """Protects painters: every region has vertices, and those that must not overlap do not."""
    masks = dict(zip(head.region_names, head.region_masks, strict=True))
    for name, mask in masks.items():
        assert mask.sum() >= 8, name
    apart = ("scalp", "face", "ears", "neck", "torso", "mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue")
    for i, a in enumerate(apart):
        for b in apart[i + 1 :]:
            assert not (masks[a] & masks[b]).any(), (a, b)
    assert not (masks["upper_lip"] & masks["lower_lip"]).any()
    assert (masks["lips"] == (masks["upper_lip"] | masks["lower_lip"])).all()
    colours = [set(head.region_faces(n).tolist()) for n in ("pupil", "iris", "sclera")]
    assert all(colours) and not colours[0] & colours[1] and not colours[1] & colours[2]
    assert (head.v_template[masks["upper_lid_left"], 0] > 0).all()


def test_landmarks_land_where_they_should(head):
    """Protects MediaPipe's numbering: nose in front, eyes in order from right to left, mouth below, chin lowest."""
    p = head.landmarks(head.v_template[None])[0]
    assert p.shape == (468, 3) and torch.allclose(head.landmark_bary.sum(1), torch.ones(468), atol=1e-5)
    assert p[:, 2].argmax().item() in (1, 4)
    x = [p[i, 0].item() for i in (33, 133, 362, 263)]  # right outer, right inner, left inner, left outer canthus
    assert x == sorted(x) and x[0] < -0.035 and x[3] > 0.035
    assert p[159, 1] > p[145, 1] and p[386, 1] > p[374, 1]  # upper lids above lower lids
    assert p[10, 1] > p[168, 1] > p[4, 1] > p[13, 1] > p[17, 1] > p[152, 1]
    assert p[61, 0] < -0.02 and p[291, 0] > 0.02 and (p[13] - p[14]).norm() < 1 * MM
    opened = head.landmarks(head(jaw_pose=torch.tensor([[0.3, 0, 0]])).vertices)[0]
    assert (opened[13] - opened[14]).norm() > 8 * MM
