"""Densification: what grows, what goes, what stays, and that everything per Gaussian moves along."""

from __future__ import annotations

import math

import pytest
import torch

from emotag_hf.models.configuration_emotag import EmoTaGGaussiansConfig
from emotag_hf.models.modeling_gaussians import RiggedGaussians, triangle_frames
from emotag_hf.rendering import Camera, rasterize
from emotag_hf.rendering.torch_reference import quaternions_to_matrices
from emotag_hf.training.gaussians.densify import DensifyOptions, DensifyStrategy

PIXELS = 48
CELLS = 6  # the sheet of triangles has 6 x 6 squares
CODE = torch.tensor([[0.1, -0.1]])  # of the correctives
RATES = {"means": 0.02, "log_scales": 0.02, "quats": 0.01, "opacity_logits": 0.03, "colors": 0.03}


class Sheet:
    """A flat sheet of triangles, 20 cm wide, a camera before it, and a picture with fine rings to be fitted."""

    def __init__(self):
        line = torch.linspace(-0.1, 0.1, CELLS + 1)
        y, x = torch.meshgrid(line, line, indexing="ij")
        self.vertices = torch.stack([x, y, torch.zeros_like(x)], -1).view(1, -1, 3)
        corner = (torch.arange(CELLS)[:, None] * (CELLS + 1) + torch.arange(CELLS)).flatten()
        right, up, both = corner + 1, corner + CELLS + 1, corner + CELLS + 2
        self.faces = torch.cat([torch.stack([corner, right, both], -1), torch.stack([corner, both, up], -1)])
        self.sizes = triangle_frames(self.vertices, self.faces)[2][0, :, 0]
        self.camera = Camera.portrait(PIXELS)
        at = (torch.arange(PIXELS) + 0.5) / PIXELS - 0.5
        radius = (at[:, None].square() + (1.3 * at).square()).sqrt()
        rings = 0.5 + 0.4 * torch.sin(45 * radius)
        self.picture = torch.stack([rings, 0.8 * rings, at.expand(PIXELS, PIXELS) + 0.5], -1)

    def gaussians(self, count: int, *, mouth: int = 0, seed: int = 0) -> RiggedGaussians:
        """Grey, soft Gaussians spread over the sheet, one after the other on its triangles."""
        config = EmoTaGGaussiansConfig(num_gaussians=count, num_mouth_gaussians=mouth, num_correctives=2)
        made = RiggedGaussians(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            made.binding.copy_(torch.arange(count) * len(self.faces) // count)
            made.means.copy_(0.1 * torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 0.1, 1.0]))
            made.quats.copy_(torch.randn(count, 4, generator=generator))
            made.log_scales.fill_(math.log(0.4))
            made.opacity_logits.fill_(1.0)
            made.canonical.copy_(torch.rand(count, 3, generator=generator))
        return made

    def draw(self, gaussians: RiggedGaussians, size: int = PIXELS, absgrad: bool = True):
        posed, camera = gaussians.pose(self.vertices, self.faces, correctives=CODE), self.camera.resize(size)
        return rasterize(
            posed.means[0], posed.quats[0], posed.scales[0], posed.opacities, posed.colors,
            camera.viewmat[None], camera.K[None], size, size, absgrad=absgrad,
        )  # fmt: skip

    def backward(self, gaussians, optimizer, strategy):
        """What the rasteriser said, with the gradients of one picture."""
        color, _, meta = self.draw(gaussians)
        if strategy is not None:
            strategy.before_backward(meta)
        optimizer.zero_grad()
        (color[0] - self.picture).abs().mean().backward()
        return meta

    def step(self, number, gaussians, optimizer, strategy):
        """One step of a fit; what the strategy reports."""
        meta = self.backward(gaussians, optimizer, strategy)
        optimizer.step()
        return None if strategy is None else strategy.after_backward(number, gaussians, optimizer, meta)

    def psnr(self, gaussians: RiggedGaussians) -> float:
        with torch.no_grad():
            error = (self.draw(gaussians)[0][0] - self.picture).square().mean()
        return -10 * math.log10(float(error))


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    return Sheet()


def adam(gaussians: RiggedGaussians) -> torch.optim.Adam:
    rest = [p for name, p in gaussians.named_parameters() if name not in RATES]
    groups = [{"params": [getattr(gaussians, name)], "lr": rate} for name, rate in RATES.items()]
    return torch.optim.Adam([*groups, {"params": rest, "lr": 0.001}])


def quick(**changes) -> DensifyOptions:
    """Passes after steps 4, 8, 12..., growing all that pulls at all, split from a millimetre on."""
    base = {"start_step": 4, "stop_step": 1000, "every": 4, "grow_grad2d": 0.0, "grow_scale3d": 0.001}
    return DensifyOptions(**{**base, "prune_scale3d": 1.0, "max_gaussians": 1000, **changes})


def until_report(sheet, gaussians, optimizer, strategy):
    """Steps up to and with the first pass that changes the set: its report, and the set just before it."""
    for number in range(20):
        before = {name: value.clone() for name, value in gaussians.state_dict().items()}
        report = sheet.step(number, gaussians, optimizer, strategy)
        if report is not None:
            return report, before
    raise AssertionError("no pass changed the set")


def test_a_blurry_set_becomes_sharp(sheet):
    """At equal steps the set that grows is worth ten dB and more over the one that cannot (25 when written): there
    is what the strategy is for."""
    results = {}
    for densify in (False, True):
        gaussians = sheet.gaussians(30)
        optimizer = adam(gaussians)
        options = DensifyOptions(start_step=40, stop_step=130, every=20, max_gaussians=300)
        strategy = DensifyStrategy(options, sheet.sizes) if densify else None
        for number in range(200):
            sheet.step(number, gaussians, optimizer, strategy)
        results[densify] = sheet.psnr(gaussians), gaussians.num_gaussians
    (plain, same), (grown, more) = results[False], results[True]
    assert same == 30 and 150 < more <= 300
    assert grown > plain + 10, results


def test_children_lie_within_the_parent_and_inherit_its_place(sheet):
    """Split: scales / 1.6, opposite places within one standard deviation of the parent, everything else the parent's:
    binding (which the released code loses), canonical position, colour, rotation, correctives."""
    gaussians = sheet.gaussians(40)
    with torch.no_grad():
        gaussians.log_scales.add_(0.5 * torch.randn(40, 3, generator=torch.Generator().manual_seed(3)))
        gaussians.corrective_means.copy_(torch.rand(40, 2, 3))
    optimizer = torch.optim.SGD(gaussians.parameters(), lr=0.0)  # the pass alone changes values
    strategy = DensifyStrategy(quick(max_gaussians=60), sheet.sizes)
    report, before = until_report(sheet, gaussians, optimizer, strategy)
    order, children = report.order, report.children
    assert (report.split, report.cloned, report.pruned) == (20, 0, 0) and gaussians.num_gaussians == 60
    for name in ("binding", "canonical", "colors", "quats", "opacity_logits", "corrective_means"):
        assert torch.equal(gaussians.state_dict()[name], before[name][order]), name
    for name in ("means", "log_scales"):
        assert torch.equal(gaussians.state_dict()[name][~children], before[name][order[~children]]), name
    after = gaussians.state_dict()
    for parent in order[children].unique():
        first, second = (order == parent).nonzero()[:, 0].tolist()
        middle = (after["means"][first] + after["means"][second]) / 2
        torch.testing.assert_close(middle, before["means"][parent], atol=1e-6, rtol=0)
        away = quaternions_to_matrices(before["quats"][parent][None])[0].T @ (
            after["means"][first] - before["means"][parent]
        )
        assert 0 < (away / before["log_scales"][parent].exp()).norm() <= 1 + 1e-4
        expected = before["log_scales"][parent] - math.log(1.6)
        torch.testing.assert_close(after["log_scales"][[first, second]], expected.expand(2, 3))


def test_small_ones_are_cloned_and_share_their_opacity(sheet):
    """Size is that in the world: of Gaussians with one local scale, those on large triangles are split and those on
    small ones cloned. A clone keeps its scale; the two on top of each other let through as much light as their parent
    did, however opaque it was."""
    gaussians = sheet.gaussians(20)
    with torch.no_grad():
        gaussians.opacity_logits.copy_(torch.linspace(-2, 40, 20))
        gaussians.binding.copy_(torch.arange(20) * 7 % len(sheet.faces))
    limit = float(0.4 * sheet.sizes.mean())
    strategy = DensifyStrategy(quick(grow_scale3d=limit), sheet.sizes)
    report, before = until_report(sheet, gaussians, torch.optim.SGD(gaussians.parameters(), lr=0.0), strategy)
    order, grown = report.order, report.children
    large = 0.4 * sheet.sizes[gaussians.binding] > limit
    assert report.split > 5 and report.cloned > 5 and report.split == int((grown & large).sum()) / 2
    change = gaussians.log_scales.detach() - before["log_scales"][order]
    torch.testing.assert_close(change, -math.log(1.6) * (grown & large)[:, None].expand(-1, 3).float())
    logits, old = gaussians.opacity_logits.detach().double(), before["opacity_logits"].double()[order]
    cloned = grown & ~large
    assert torch.equal(logits[~cloned], old[~cloned]) and torch.isfinite(logits).all()
    torch.testing.assert_close(torch.sigmoid(-logits[cloned]).square(), torch.sigmoid(-old[cloned]), rtol=1e-3, atol=0)


def test_moments_of_the_optimiser_follow(sheet):
    """A pass moves the moments along with who stays, forgets those of who goes and empties those of both children; the
    next step works."""
    gaussians = sheet.gaussians(40)
    optimizer = adam(gaussians)
    with torch.no_grad():
        gaussians.opacity_logits[::7] = -8.0  # transparent: these go
    strategy = DensifyStrategy(quick(max_gaussians=50), sheet.sizes)
    for number in range(4):
        sheet.step(number, gaussians, optimizer, strategy)
    meta = sheet.backward(gaussians, optimizer, strategy)
    optimizer.step()
    moments = {name: optimizer.state[p]["exp_avg_sq"].clone() for name, p in gaussians.named_parameters()}
    report = strategy.after_backward(4, gaussians, optimizer, meta)
    assert (report.pruned, report.split, gaussians.num_gaussians) == (6, 16, 50)
    assert not set(report.order.tolist()) & set(range(0, 40, 7))
    assert len(moments) == len(optimizer.state) == sum(len(group["params"]) for group in optimizer.param_groups) == 7
    for name, before in moments.items():
        after = optimizer.state[getattr(gaussians, name)]["exp_avg_sq"]
        assert torch.equal(after[~report.children], before[report.order[~report.children]]) and after.any(), name
        assert not after[report.children].any(), name
    old = gaussians.means.detach().clone()
    sheet.step(5, gaussians, optimizer, None)
    assert (gaussians.means != old).any(1).all()


def test_the_budget_goes_to_the_highest_gradients(sheet):
    """Never more than max_gaussians, and what is granted is what pulls hardest; above the budget nothing grows."""
    gaussians = sheet.gaussians(40)
    strategy = DensifyStrategy(quick(max_gaussians=45), sheet.sizes)
    optimizer = torch.optim.SGD(gaussians.parameters(), lr=0.0)
    report, _ = until_report(sheet, gaussians, optimizer, strategy)
    pull = sheet.backward(sheet.gaussians(40), optimizer, None)["means2d"].absgrad[0].norm(dim=-1)
    assert set(report.order[report.children].tolist()) == set(pull.topk(5).indices.tolist())
    assert gaussians.num_gaussians == 45
    assert not strategy.state_dict()["gradient"].any() and not strategy.state_dict()["views"].any()  # counted afresh
    fitted = adam(gaussians)
    for number in range(60):
        sheet.step(number, gaussians, fitted, strategy)
        assert gaussians.num_gaussians <= 45
    small = DensifyStrategy(quick(max_gaussians=10), sheet.sizes)
    assert all(sheet.step(number, gaussians, fitted, small) is None for number in range(9))


def test_protected_ones_stay_and_the_mouth_stays_last(sheet):
    """Protected Gaussians are neither grown nor pruned through many passes, however transparent or large; their mask
    moves along; the inner-mouth ones stay the last ones."""
    gaussians = sheet.gaussians(40, mouth=10)
    protected = torch.zeros(40, dtype=torch.bool)
    protected[[3, 4, 5, 31, 32]] = True
    with torch.no_grad():
        gaussians.opacity_logits[[3, 31, 10]] = -9.0
        gaussians.log_scales[[4, 11]] = 2.0
        gaussians.canonical.fill_(0.0)
        gaussians.canonical[protected, 0] = torch.arange(1.0, 6.0)
        gaussians.canonical[30:, 1] = 1.0
    strategy = DensifyStrategy(quick(max_gaussians=300, prune_scale3d=0.1, grow_grad2d=1e-4), sheet.sizes, protected)
    optimizer = adam(gaussians)
    pruned = passes = 0
    for number in range(30):
        report = sheet.step(number, gaussians, optimizer, strategy)
        if report is not None:
            passes, pruned = passes + 1, pruned + report.pruned
    kept = strategy.state_dict()["protected"]
    assert passes > 3 and pruned >= 1 and gaussians.num_gaussians > 100
    assert gaussians.canonical[kept, 0].sort().values.tolist() == [1, 2, 3, 4, 5]
    assert gaussians.canonical[:, 0].count_nonzero() == 5
    mouth = gaussians.config.num_mouth_gaussians
    assert 10 < mouth < gaussians.num_gaussians
    assert gaussians.canonical[-mouth:, 1].all() and not gaussians.canonical[:-mouth, 1].any()


def test_too_large_ones_go_unless_they_want_to_be_split(sheet):
    """A blanket over the picture goes; with a high gradient it is split instead, for pruning it would leave a hole."""
    for threshold, pruned in ((1e9, 1), (0.0, 0)):
        gaussians = sheet.gaussians(40)
        with torch.no_grad():
            gaussians.log_scales[20] = math.log(2.0)
        strategy = DensifyStrategy(quick(grow_grad2d=threshold, prune_scale3d=0.05), sheet.sizes)
        report, _ = until_report(sheet, gaussians, torch.optim.SGD(gaussians.parameters(), lr=0.0), strategy)
        assert report.pruned == pruned and (20 in report.order.tolist()) == (not pruned)


def test_nothing_is_done_where_nothing_should_be(sheet):
    """Outside its steps, and below its threshold, the strategy touches nothing and reports nothing; a set that has
    become transparent altogether is not wiped out."""
    gaussians = sheet.gaussians(40)
    optimizer = adam(gaussians)
    means = gaussians.means
    idle = (quick(start_step=50), quick(stop_step=0), quick(grow_grad2d=1e9))
    for options in idle:
        strategy = DensifyStrategy(options, sheet.sizes)
        assert all(sheet.step(number, gaussians, optimizer, strategy) is None for number in range(10))
    with torch.no_grad():
        gaussians.opacity_logits.fill_(-9.0)
    assert all(sheet.step(number, gaussians, optimizer, strategy) is None for number in range(10))
    assert gaussians.means is means


def test_resume_gives_the_same_bits(sheet):
    """Stopped between two passes and built anew from what was saved, the fit goes on to the same bits; with the sums or
    the generator forgotten it would not."""

    def run(stop: int | None, forget: str | None = None):
        gaussians = sheet.gaussians(40, mouth=5)
        optimizer, strategy = adam(gaussians), DensifyStrategy(quick(max_gaussians=90), sheet.sizes)
        for number in range(18):
            if number == stop:
                saved = gaussians.state_dict(), optimizer.state_dict(), strategy.state_dict()
                config = EmoTaGGaussiansConfig(
                    num_gaussians=gaussians.num_gaussians,
                    num_mouth_gaussians=gaussians.config.num_mouth_gaussians,
                    num_correctives=2,
                )
                gaussians = RiggedGaussians(config)
                gaussians.load_state_dict(saved[0])
                optimizer = adam(gaussians)
                optimizer.load_state_dict(saved[1])
                strategy = DensifyStrategy(quick(max_gaussians=90), sheet.sizes)
                if forget == "generator":
                    saved[2][forget] = strategy.state_dict()[forget]
                elif forget:
                    saved[2][forget].zero_()
                strategy.load_state_dict(saved[2])
            sheet.step(number, gaussians, optimizer, strategy)
        return gaussians.state_dict()

    straight = run(None)
    assert straight["means"].shape[0] == 90
    for stop in (0, 7):
        resumed = run(stop)
        assert all(torch.equal(straight[name], resumed[name]) for name in straight), stop
    for name in ("generator", "gradient"):
        assert not torch.equal(straight["means"], run(7, name)["means"]), name


def test_sums_follow_a_set_that_the_caller_resizes(sheet):
    """Told of the new order, the sums and the protection lie where their Gaussians lie; untold, the strategy refuses
    instead of growing the wrong ones."""
    gaussians = sheet.gaussians(40, mouth=5)
    protected = torch.arange(40) % 9 == 0
    strategy = DensifyStrategy(quick(), sheet.sizes, protected)
    optimizer = adam(gaussians)
    for number in range(3):
        sheet.step(number, gaussians, optimizer, strategy)
    before = strategy.state_dict()
    assert before["gradient"].unique().numel() > 30
    order = gaussians.resize(torch.tensor([39, 7, 7, 20, 36, 0]), optimizer)
    with pytest.raises(ValueError, match=r"gaussians: expected the 40 that .* got 6; give follow\(\)"):
        sheet.step(3, gaussians, optimizer, strategy)
    strategy.follow(order)
    after = strategy.state_dict()
    for name in ("gradient", "views", "protected"):
        assert torch.equal(after[name], before[name][order]), name
    sheet.step(3, gaussians, optimizer, strategy)


def test_gradients_are_averages_over_the_pictures_that_show_it(sheet):
    """The same picture drawn twice in a step, or at twice the size, is judged as when drawn once; without absolute
    gradients the signed ones count."""

    def sums(draw):
        gaussians = sheet.gaussians(40)
        strategy = DensifyStrategy(quick(), sheet.sizes)
        metas, loss = draw(gaussians)
        strategy.before_backward(metas)
        loss.backward()
        strategy.after_backward(1, gaussians, None, metas)
        state = strategy.state_dict()
        return state["gradient"], state["views"], metas

    def loss(color):
        picture = torch.nn.functional.interpolate(sheet.picture.permute(2, 0, 1)[None], color.shape[1])[0]
        return (color[0] - picture.permute(1, 2, 0)).abs().mean()

    def once(gaussians, size=PIXELS):
        color, _, meta = sheet.draw(gaussians, size)
        return meta, loss(color)

    def twice(gaussians):
        (a, x), (b, y) = once(gaussians), once(gaussians)
        return [a, b], (x + y) / 2

    def signed(gaussians):
        color, _, meta = sheet.draw(gaussians, absgrad=False)
        return meta, loss(color)

    gradient, views, meta = sums(once)
    torch.testing.assert_close(gradient, meta["means2d"].absgrad[0].norm(dim=-1) * PIXELS / 2)
    double, double_views, _ = sums(twice)
    torch.testing.assert_close(double / double_views, gradient / views)
    large, large_views, _ = sums(lambda gaussians: once(gaussians, 2 * PIXELS))
    assert 0.8 < float((large / large_views).mean() / (gradient / views).mean()) < 1.25
    plain, _, meta = sums(signed)
    torch.testing.assert_close(plain, meta["means2d"].grad[0].norm(dim=-1) * PIXELS / 2)
    assert (plain <= gradient * 1.001).all()


def test_hidden_ones_are_not_counted(sheet):
    """A picture in which a Gaussian has no part does not make it look content."""
    gaussians = sheet.gaussians(40)
    with torch.no_grad():
        gaussians.opacity_logits[5] = -9.0  # below what the rasteriser draws
    strategy = DensifyStrategy(quick(), sheet.sizes)
    sheet.step(1, gaussians, adam(gaussians), strategy)
    views = strategy.state_dict()["views"]
    assert views[5] == 0 and views.sum() == 39


def test_prune_unseen(sheet):
    """What nobody saw goes but for the protected; where nothing at all was seen, that is an error."""
    gaussians = sheet.gaussians(40, mouth=5)
    protected, seen = torch.zeros(2, 40, dtype=torch.bool)
    protected[2], seen[10:37] = True, True
    strategy = DensifyStrategy(quick(), sheet.sizes, protected)
    optimizer = adam(gaussians)
    sheet.step(1, gaussians, optimizer, strategy)
    report = strategy.prune_unseen(gaussians, optimizer, seen)
    assert report.pruned == 12 and not report.children.any() and report.order.tolist() == [2, *range(10, 37)]
    assert gaussians.config.num_mouth_gaussians == 2
    assert strategy.state_dict()["protected"].tolist() == [True] + 27 * [False]
    assert strategy.prune_unseen(gaussians, optimizer, torch.ones(28, dtype=torch.bool)) is None
    with pytest.raises(ValueError, match=r"seen: expected a bool tensor of shape \(28,\)"):
        strategy.prune_unseen(gaussians, optimizer, seen)
    with pytest.raises(ValueError, match="seen: expected at least one"):
        DensifyStrategy(quick(), sheet.sizes).prune_unseen(gaussians, None, torch.zeros(28, dtype=torch.bool))
    sheet.step(2, gaussians, optimizer, strategy)


def test_bad_arguments_are_named(sheet):
    """Errors name the argument, what was expected, what came and what to do."""
    for name, value in (("every", 0), ("prune_opacity", 1.0), ("grow_grad2d", float("nan")), ("max_gaussians", 0)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            DensifyOptions(**{name: value})
    with pytest.raises(ValueError, match="triangle_sizes: expected a tensor of shape"):
        DensifyStrategy(quick(), sheet.sizes[:, None])
    with pytest.raises(ValueError, match="protected: expected a bool tensor"):
        DensifyStrategy(quick(), sheet.sizes, torch.zeros(40))
    strategy = DensifyStrategy(quick(), sheet.sizes)
    gaussians = sheet.gaussians(40)
    with pytest.raises(ValueError, match="meta: expected a gradient of means2d, got none; call before_backward"):
        strategy.after_backward(1, gaussians, None, {**sheet.draw(gaussians)[2], "means2d": torch.zeros(1, 40, 2)})
    with pytest.raises(ValueError, match="state: expected the keys gradient, views, protected, generator"):
        strategy.load_state_dict({"gradient": torch.zeros(3)})
    state = strategy.state_dict() | {"views": torch.zeros(3)}
    with pytest.raises(ValueError, match="state: expected gradient, views and protected of one length"):
        strategy.load_state_dict(state)
