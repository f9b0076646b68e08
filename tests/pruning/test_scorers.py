"""Every scorer cuts every kind of site, and the closed form changes a model only where it is cut."""

import pytest
import torch

from greedyprune.models.batch import pad_images
from greedyprune.pruning import sensitivity
from greedyprune.pruning.calibrate import calibrate
from greedyprune.pruning.cut import BasisCut, KeptCut, cut_model
from greedyprune.pruning.prefix import begin
from greedyprune.pruning.scorers import SCORERS, Given, make_cuts
from greedyprune.pruning.sites import list_sites
from greedyprune.pruning.transplant import masked, transplant

from .test_transplant import MODELS, detector, difference

KINDS = ("prelu", "deformable encoder", "dn deformable", "deformable, two stages")
FAST = [scorer for scorer in SCORERS if scorer != "exact"]
TARGETS = [
    {"labels": torch.tensor([1, 3]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.3, 0.2]])},
    {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])},
]


def given_images(kind, images: int = 4) -> Given:
    model = MODELS[kind] if isinstance(kind, str) else kind
    draw = torch.Generator().manual_seed(3)
    batches = []
    with torch.no_grad():
        for _ in range(images):
            shown = [torch.randn(3, 64, 96, generator=draw), torch.randn(3, 48, 80, generator=draw)]
            batches.append((begin(model.features(shown)), TARGETS))
    return Given(model, list_sites(model), lambda: batches)


def loaded(model, tensors):
    state = {**model.state_dict(), **tensors}
    twin = type(model)(model.options, model.cfgs, model.info)
    twin.load_state_dict(state)
    return twin.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_model_in_the_new_basis_is_the_dense_model(kind: str) -> None:
    given = given_images(kind)
    cuts = make_cuts("basis", given)
    for site in given.sites:
        cut = cuts[site.name]
        if isinstance(cut, BasisCut):
            tensors = cut.rewritten(site.width)
            assert any(not torch.equal(tensors[name], given.state[name]) for name in tensors)
            assert difference(loaded(given.model, tensors), given.model) < 1e-3, site.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_slim_in_the_new_basis_is_masked_in_the_new_basis(kind: str, share: float) -> None:
    given = given_images(kind)
    cuts = make_cuts("basis", given, refit=False)
    for site in given.sites:
        cut, each = cuts[site.name], int(site.group_width * share)
        if not isinstance(cut, BasisCut) or cut.shared:  # keys that two products share have a basis for each width
            continue
        rewritten = loaded(given.model, cut.rewritten(site.width))
        kept = {site.name: tuple(c for c in range(site.width) if c % site.group_width < each)}
        slim = cut_model(given.model, cuts, {site.name: each * site.groups})
        assert difference(slim, masked(rewritten, kept)) < 1e-3, site.name
        assert difference(slim, transplant(rewritten, kept)) < 1e-3, site.name


@pytest.mark.parametrize("scorer", FAST)
def test_every_scorer_takes_whole_heads_where_they_leave_whole(scorer: str) -> None:
    given = given_images(detector(whole_heads=True), images=1)
    widths = {site.name: site.width // 2 for site in given.sites}
    cuts = make_cuts(scorer, given)
    slim = cut_model(given.model, cuts, widths)
    assert slim.cfgs.widths() == widths
    for site in given.sites:
        cut = cuts[site.name]
        assert isinstance(cut, KeptCut)
        assert len(site.units(cut.kept(widths[site.name]))) * site.unit == widths[site.name]
    unmended = cut_model(given.model, make_cuts(scorer, given, refit=False), widths)
    kept = {site.name: cuts[site.name].kept(widths[site.name]) for site in given.sites}
    assert difference(unmended, masked(given.model, kept)) < 1e-4


@pytest.mark.parametrize("scorer", FAST)
@pytest.mark.parametrize("kind", ["prelu", "dn deformable"])
def test_every_scorer_cuts_every_site_and_a_refit_is_nearer_to_the_dense_output(kind: str, scorer: str) -> None:
    given = given_images(kind, images=2)
    widths = {site.name: max(site.groups, site.width // 2 // site.groups * site.groups) for site in given.sites}
    for refit in (True, False):
        cuts = make_cuts(scorer, given, refit)
        slim = cut_model(given.model, cuts, widths)
        assert slim.cfgs.widths() == widths
        assert all(torch.isfinite(tensor).all() for tensor in slim.state_dict().values())
        dense = cut_model(given.model, cuts, {site.name: site.width for site in given.sites})
        assert difference(dense, given.model) == 0
    again = make_cuts(scorer, given, refit=True)
    twice = make_cuts(scorer, given_images(kind, images=2), refit=True)
    for site in given.sites:
        one, other = (cuts[site.name].tensors(widths[site.name]) for cuts in (again, twice))
        assert all(torch.equal(one[name], other[name]) for name in one), site.name


@pytest.mark.parametrize("whole_heads", [False, True])
def test_the_exact_score_orders_every_unit_of_every_site(whole_heads: bool) -> None:
    model = detector(whole_heads=whole_heads, enc_layers=1, dec_layers=1, ffn_dim=16)
    given = given_images(model, images=1)
    cuts = make_cuts("exact", given, refit=False)
    for site in given.sites:
        cut = cuts[site.name]
        assert isinstance(cut, KeptCut)
        assert cut.kept(site.width) == tuple(range(site.width))
    widths = {site.name: site.width // 2 for site in given.sites}
    kept = {site.name: cuts[site.name].kept(widths[site.name]) for site in given.sites}
    assert difference(cut_model(model, cuts, widths), masked(model, kept)) < 1e-4


def test_the_closed_form_does_less_damage_than_any_other_score() -> None:
    given = given_images("prelu")
    widths = {site.name: site.width // 2 for site in given.sites}
    errors = {}
    for scorer in ("basis", "select", "taylor", "magnitude", "random"):
        slim = cut_model(given.model, make_cuts(scorer, given), widths)
        errors[scorer] = difference(slim, given.model)
    assert min(errors, key=lambda name: errors[name]) == "basis", errors


@pytest.mark.parametrize("prune", ["backbone", "all"])
def test_the_backbone_is_cut_alone_and_with_the_rest(prune: str) -> None:
    model = MODELS["prelu"]
    images = [[torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(n))] for n in range(3)]
    with torch.no_grad():
        batches = [(begin(model.features(each)), TARGETS[:1]) for each in images]
    given = Given(model, list_sites(model, prune), lambda: batches, lambda: images)
    widths = {site.name: site.width // 2 for site in given.sites}
    slim = cut_model(model, make_cuts("basis", given), widths)
    assert {name: slim.cfgs.widths("all")[name] for name in widths} == widths
    dense = cut_model(model, make_cuts("basis", given), {site.name: site.width for site in given.sites})
    assert difference(dense, model) == 0


def test_one_image_and_dead_channels_leave_finite_weights() -> None:
    given = given_images("prelu", images=1)
    model = loaded(given.model, {})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("linear1.weight", "linear1.bias", "sa_v_proj.weight", "sa_v_proj.bias")):
                parameter[:7] = 0
    (prefix, targets), *_ = given.batches()
    given = Given(model, list_sites(model), lambda: [(prefix, targets)])
    for scorer in ("basis", "select"):
        slim = cut_model(model, make_cuts(scorer, given), {site.name: site.width // 2 for site in given.sites})
        assert all(torch.isfinite(tensor).all() for tensor in slim.state_dict().values())


def test_padding_counts_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "TOKEN_SHARE", 0.0)  # signs are drawn by batch: only the even weights are equal
    model = MODELS["prelu"]
    sites = [site for site in list_sites(model) if site.part == "encoder"]
    images = [torch.randn(3, 64, 96), torch.randn(3, 48, 80)]
    with torch.no_grad():
        together = [begin(model.features(pad_images(images)))]
        alone = [begin(model.features(pad_images([image]))) for image in images]
    padded, exact = (calibrate(model, sites, batches) for batches in (together, alone))
    for site in sites:
        one, other = padded[site.name].rows, exact[site.name].rows
        assert one.weight == other.weight
        assert (one.covariance - other.covariance).norm() < 1e-4 * other.covariance.norm()
        for queries, own in zip(padded[site.name].keys, exact[site.name].keys, strict=True):
            assert (queries.moment - own.moment).norm() < 1e-4 * own.moment.norm()


def test_random_projections_measure_the_curvature_of_the_answer() -> None:
    torch.manual_seed(0)
    place = torch.randn(1, 1, 5, dtype=torch.float64, requires_grad=True)
    logit_map, box_map = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    logits, boxes = place @ logit_map, place @ box_map
    outputs = {"pred_logits": logits, "pred_boxes": boxes, "aux_outputs": []}
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(5, 5, dtype=torch.float64)
    draws = 2000
    for _ in range(draws):
        outputs = {"pred_logits": place @ logit_map, "pred_boxes": place @ box_map, "aux_outputs": []}
        for (gradient,) in sensitivity.answer_gradients(outputs, [place], generator):
            total += torch.outer(gradient.flatten(), gradient.flatten()) / (draws * sensitivity.PROJECTIONS)
    chance = logits.detach().sigmoid().flatten()
    curvature = logit_map @ torch.diag(chance * (1 - chance)) @ logit_map.T
    curvature += sensitivity.BOX_WEIGHT**2 * chance.max() * box_map @ box_map.T
    assert (total - curvature).norm() < 0.1 * curvature.norm()
