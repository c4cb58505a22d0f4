"""Named targets for parts of the study: `snakemake --cores 2 kernel`.

Every chapter's name makes the chapter. Figures and tables are rules of the figures chapter and
targets themselves.
"""


rule fetch:
    """Everything that needs the network: the model and the tasks."""
    input:
        "<results>/data/model",
        collect("<results>/data/{task}/table.parquet", task=STUDY["task_definitions"]),


rule data:
    """The model, and the tasks' texts, tokens and samples of rows."""
    input:
        offered("data"),
        rules.fetch.input,
        collect("<results>/data/{task}/subsets.json", task=STUDY["task_definitions"]),
        collect("<results>/data/{task}/draws.json", task=STUDY["tasks"]),


rule kernel:
    """The kernel of every task."""
    input:
        offered("kernel"),
        collect("<results>/kernel/{task}/draws.safetensors", task=STUDY["tasks"]),
        collect(LEARNING_KERNELS, task=STUDY["tasks"]),


rule spectrum:
    """The kernels' eigenvalues and their decay."""
    input:
        offered("spectrum"),
        collect("<results>/spectrum/{task}/summary.json", task=STUDY["tasks"]),


rule finetune:
    """Fine-tuning on every task and size, and predictions without it."""
    input:
        offered("finetune"),
        collect(
            "<results>/finetune/{task}/n{size}/metrics.parquet",
            task=STUDY["tasks"],
            size=STUDY["finetune"]["sizes"],
        ),
        collect("<results>/finetune/{task}/baselines.parquet", task=STUDY["tasks"]),
        collect(
            "<results>/finetune/{task}/fixed/n{size}/history.parquet",
            task=STUDY["tasks"] * FIXED_EPOCHS,
            size=FIXED_SIZE,
        ),


rule taskvectors:
    """Task vectors: cosines, merged and negated models, disentanglement."""
    input:
        offered("taskvectors"),
        "<results>/taskvectors/cosine.parquet",
        "<results>/taskvectors/overlap.parquet",
        "<results>/taskvectors/merged.parquet",
        collect("<results>/taskvectors/disentanglement/{merge}.parquet", merge=MERGED_PAIRS),


rule theory:
    """Stopping rules, linearisation, drift, widths, and the check on a known target."""
    input:
        offered("theory"),
        "<results>/theory/simulation.parquet",
        "<results>/theory/width.parquet",
        collect("<results>/theory/{task}/stopping.parquet", task=STUDY["tasks"]),
        collect("<results>/theory/{task}/rules.parquet", task=RULED),
        collect("<results>/theory/{task}/trajectory.parquet", task=WATCHED),


rule figures:
    """Every figure and table of the study's chapters."""
    input:
        offered("figures"),
        collect("<results>/figures/{figure}.png", figure=FIGURES),
        collect("<results>/figures/{table}.csv", table=TABLES),


for name, number in FURTHER.items():

    rule:
        """The eigenvalue decay of a further task, which this study lacks."""
        name:
            name
        input:
            offered(name),

    describe(name, f"Figure: eigenvalue decay of task number {number}, which the study lacks.")
