"""Options of a search: in studies, on command lines, and which of them do not stand together."""

import json
from dataclasses import replace
from typing import Any

import pytest

from greedyprune import UserError
from greedyprune.commands.prune_options import parser, search_options
from greedyprune.search.options import GrowthOptions, MendOptions, SearchImages, SearchOptions, Steps
from greedyprune.sites import AttentionSite, CountSite, HiddenSite, RatioSite, Reader

CHANGED = SearchOptions(
    schedule="gp",
    map_tol=0.1,
    cost="params",
    budget=0.5,
    prune=("encoder", "backbone"),
    scorer="exact",
    refit=False,
    skip_eval_converge=0.05,
    rounds=3,
    steps=Steps(attn=2, query=5),
    images=SearchImages(eval_images=7, score_images=3),
    mend=MendOptions(steps=0, augment="flips", hold=4),
    attn=GrowthOptions(map_tol=0.3, num_evaluate=0),
    ffn=GrowthOptions(skip_eval_converge=0.2),
    site_decay=0.5,
    seed=4,
    batch_size=3,
    amp="bf16",
)


def stored(options: SearchOptions) -> dict[str, Any]:
    """What a study gives back of options."""
    return json.loads(json.dumps(options.settings()))


@pytest.mark.parametrize("options", [SearchOptions(), CHANGED, replace(CHANGED, budget=None, rounds=None)])
def test_options_come_back_from_a_study_as_they_were(options: SearchOptions) -> None:
    assert SearchOptions.of_settings(stored(options), "study 'x'") == options
    assert SearchOptions.of_settings(stored(options) | {"weights": "ab", "sites": ["a"]}, "study 'x'") == options


def test_what_is_asked_beyond_the_search_is_not_of_its_settings() -> None:
    assert replace(CHANGED, pareto=3, refine=2, sampler="nsgaii").settings() == CHANGED.settings()
    assert replace(CHANGED, seed=5).settings() != CHANGED.settings()


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_settings_of_another_version_are_refused(version: Any) -> None:
    settings = stored(CHANGED) | {"version": version}
    with pytest.raises(UserError, match=r"^study 'x' is of another version of this program; start a new study"):
        SearchOptions.of_settings(settings, "study 'x'")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("map_tol", 1.5),
        ("map_tol", "0.1"),
        ("map_tol", None),
        ("cost", "joules"),
        ("schedule", 3),
        ("refit", "no"),
        ("budget", 0),
        ("budget", 1),
        ("seed", -1),
        ("prune", 5),
        ("prune", [5]),
        ("prune", "encoder"),
        ("steps", None),
        ("steps", {"attn": 0}),
        ("steps", {"width": 3}),
        ("mend", {"augment": "nothing"}),
        ("mend", {"steps": 1.5}),
        ("images", {"subset_images": 0}),
        ("images", 5),
        ("attn", {"map_tol": "high"}),
        ("ffn", [1, 2]),
    ],
)
def test_settings_that_were_changed_by_hand_are_refused_in_one_line(path: str, value: Any) -> None:
    with pytest.raises(UserError) as told:
        SearchOptions.of_settings(stored(SearchOptions()) | {path: value}, "study 'x'")
    assert str(told.value).startswith("study 'x': its settings are no search's (")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("made", [
    lambda: SearchOptions(map_tol=1.0),
    lambda: SearchOptions(budget=0.0),
    lambda: SearchOptions(schedule="none"),
    lambda: SearchOptions(prune="encoder"),
    lambda: SearchOptions(attn=GrowthOptions(num_evaluate=-1)),
    lambda: SearchOptions(mend=MendOptions(augment="all")),
    lambda: SearchOptions(steps=Steps(mlp=0)),
    lambda: replace(SearchOptions(), amp="int8"),
])  # fmt: skip
def test_options_out_of_range_are_refused_where_they_are_made(made: Any) -> None:
    with pytest.raises(UserError, match=r"^option "):
        made()


def read(words: str, schedule: str = "global") -> SearchOptions:
    return search_options(parser(schedule).parse_args(words.split()), schedule)


def test_no_flags_are_the_defaults() -> None:
    assert read("") == SearchOptions()
    assert read("--schedule gp") == read("", "gp") == SearchOptions(schedule="gp", scorer="exact")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--map_tol 0.1 --seed 3 --no-refit --amp bf16", SearchOptions(map_tol=0.1, seed=3, refit=False, amp="bf16")),
        ("--target_params 0.5", SearchOptions(cost="params", budget=0.5)),
        ("--cost latency --batch_size 3", SearchOptions(cost="latency", batch_size=3)),
        ("--prune encoder backbone", SearchOptions(prune=("encoder", "backbone"))),
        ("--attn_step 2 --query_step 3 --mlp_step 4 --ffn_step 5 --conv_step 6", SearchOptions(
            steps=Steps(attn=2, query=3, mlp=4, ffn=5, conv=6))),
        ("--mends 2 --mend_steps 9 --mend_images 8 --mend_augment flips", SearchOptions(
            mend=MendOptions(steps=9, images=8, augment="flips", hold=2))),
        ("--eval_images 5 --subset_images 4 --score_images 3 --calib_images 2", SearchOptions(
            images=SearchImages(5, 4, 3, 2))),
        ("--pareto --refine 2 --sampler nsgaii --rounds 0", SearchOptions(
            pareto=8, refine=2, sampler="nsgaii", rounds=0)),
        ("--pareto 3 --skip_eval_converge 0.2 --scorer taylor", SearchOptions(
            pareto=3, skip_eval_converge=0.2, scorer="taylor")),
        ("--schedule gp --map_tol 0.1 --attn.map_tol 0.2 --num_evaluate 5 --site_decay 0", SearchOptions(
            schedule="gp", scorer="exact", map_tol=0.1, site_decay=0.0,
            attn=GrowthOptions(map_tol=0.2, num_evaluate=5), ffn=GrowthOptions(map_tol=0.1, num_evaluate=5))),
        ("--schedule modular --ffn.skip_eval_converge 0.1 --skip_eval_converge 0.3", SearchOptions(
            schedule="modular", scorer="exact", skip_eval_converge=0.3, attn=GrowthOptions(skip_eval_converge=0.3),
            ffn=GrowthOptions(skip_eval_converge=0.1, num_evaluate=96))),
    ],
)  # fmt: skip
def test_flags_say_options(words: str, options: SearchOptions) -> None:
    assert read(words) == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--target_flops 0.5 --target_params 0.5", "--target_flops and --target_params are two budgets; give one"),
        ("--target_flops 0.5 --cost params", "--target_flops and --cost params name two costs; leave out --cost"),
    ],
)
def test_two_of_what_there_is_one_of_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(words)


def test_a_site_has_the_step_that_is_asked_for_of_its_kind_and_else_its_own() -> None:
    about = {"label": "site", "part": "encoder", "name": "site"}
    attention = AttentionSite(full=64, heads=8, grain=8, step=8, reader=Reader("out"), **about)
    hidden = {sort: HiddenSite(full=48, step=16, sort=sort, readers=(Reader("out"),), **about)
              for sort in ("ffn", "mlp", "conv")}  # fmt: skip
    queries = CountSite(full=50, step=5, queries=True, **about)
    layer, ratio = CountSite(full=1, **about), RatioSite(full=10, step=2, module="m", attribute="a", **about)
    own, asked = SearchOptions(), SearchOptions(steps=Steps(attn=2, ffn=8, mlp=100, conv=4, query=7))
    assert [own.step(site) for site in (attention, *hidden.values(), queries, layer, ratio)] == [8, 16, 16, 16, 5, 1, 2]
    assert [asked.step(site) for site in (attention, *hidden.values())] == [16, 8, 48, 4]
    assert [asked.step(site) for site in (queries, layer, ratio)] == [7, 1, 2]


def test_steps_are_multiples_of_what_stays_together() -> None:
    about = {"label": "", "part": "", "sort": "conv", "readers": (Reader("out"),)}
    fours = HiddenSite(name="fours", full=64, grain=4, least=4, step=16, together=4, **about)
    assert [SearchOptions(steps=Steps(conv=conv)).step(fours) for conv in (None, 6, 100)] == [16, 8, 64]
