"""Options of a global search, with which tests play."""

from greedyprune.search.steps import GlobalOptions

OPTIONS = GlobalOptions(
    map_tol=0.02,
    budget=None,
    cost="flops",
    skip_eval_converge=0.02,
    rounds=6,
    attn_step=8,
    ffn_step=32,
    conv_step=8,
    scorer="basis",
    refit=True,
    mend_steps=10,
    mends=3,
    seed=0,
)
