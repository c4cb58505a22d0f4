"""Named targets for parts of the study: `snakemake --cores 2 kernel`.

Every chapter's name makes the chapter. Figures and tables are rules of the figures chapter and
targets themselves.
"""

FETCHED = [
    "<results>/data/model",
    *collect("<results>/data/{task}/table.parquet", task=STUDY["task_definitions"]),
    *collect(
        "<results>/selection/models/{candidate}",
        candidate=[name for name, model in CANDIDATES.items() if SELECTED and model["source"]],
    ),
]
# target -> what it is, and its files
TARGETS = {
    "fetch": ("Everything that needs the network: the model and the tasks.", FETCHED),
    "data": (
        "The model, and the tasks' texts, tokens and samples of rows.",
        FETCHED
        + collect("<results>/data/{task}/subsets.json", task=STUDY["task_definitions"])
        + collect("<results>/data/{task}/draws.json", task=STUDY["tasks"]),
    ),
    "kernel": (
        "The kernel of every task.",
        collect("<results>/kernel/{task}/draws.safetensors", task=STUDY["tasks"])
        + collect(LEARNING_KERNELS, task=STUDY["tasks"]),
    ),
    "spectrum": (
        "The kernels' eigenvalues and their decay.",
        collect("<results>/spectrum/{task}/summary.json", task=STUDY["tasks"]),
    ),
    "finetune": (
        "Fine-tuning on every task and size, and predictions without it.",
        collect(
            "<results>/finetune/{task}/{method}/n{size}/metrics.parquet",
            task=STUDY["tasks"],
            method=METHODS,
            size=STUDY["finetune"]["sizes"],
        )
        + collect("<results>/finetune/{task}/baselines.parquet", task=STUDY["tasks"])
        + collect(
            f"<results>/finetune/{{task}}/fixed/n{FIXED_SIZE}/history.parquet",
            task=STUDY["tasks"] * FIXED_EPOCHS,
        ),
    ),
    "taskvectors": (
        "Task vectors: cosines, merged and negated models, disentanglement.",
        collect("<results>/taskvectors/{table}.parquet", table=["cosine", "overlap", "merged"])
        + collect("<results>/taskvectors/disentanglement/{merge}.parquet", merge=MERGED_PAIRS),
    ),
    "theory": (
        "Stopping rules, linearisation, drift, widths, and the check on a known target.",
        collect("<results>/theory/{table}.parquet", table=["simulation", "width"])
        + collect("<results>/theory/{task}/stopping.parquet", task=STUDY["tasks"])
        + collect("<results>/theory/{task}/rules.parquet", task=RULED)
        + collect("<results>/theory/{task}/trajectory.parquet", task=WATCHED),
    ),
    "linearized": (
        "Fine-tuning held near its start, its linearised twin, and sets of layers.",
        collect("<results>/linearized/{task}/{table}.parquet", task=LAYERED, table=["sets", "tune"])
        + collect("<results>/linearized/{task}/hold.parquet", task=HELD),
    ),
    "selection": (
        "Candidate models: scores before training, and fine-tuning.",
        collect(
            "<results>/selection/{task}/{table}.parquet", task=SELECTED, table=["scores", "curves"]
        ),
    ),
    "advise": (
        "What pilots, some labelled texts, predict of larger samples.",
        collect("<results>/advise/{task}/benchmark.parquet", task=STUDY["advise"]["tasks"]),
    ),
    "figures": (
        "Every figure and table of the study's chapters.",
        collect("<results>/figures/{figure}.png", figure=FIGURES)
        + collect("<results>/figures/{table}.csv", table=TABLES),
    ),
} | {
    name: (f"Figure: eigenvalue decay of task number {number}, which the study lacks.", [])
    for name, number in FURTHER.items()
}

for name, (what, files) in TARGETS.items():

    rule:
        """Make a part of the study."""
        name:
            name
        input:
            offered(name),
            files,

    describe(name, what)
