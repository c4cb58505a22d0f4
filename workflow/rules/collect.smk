"""Named targets for parts of the study: `snakemake --cores 2 fig4`.

fig2, fig3, fig10 and the tables are rules of the figures chapter and targets themselves.
"""


rule fetch:
    """Everything that needs the network: the model and the tasks."""
    input:
        "<results>/data/model",
        collect("<results>/data/{task}/table.parquet", task=STUDY["task_definitions"]),


rule kernels:
    """All kernels and the decay of their eigenvalues."""
    input:
        collect("<results>/spectrum/{task}/summary.json", task=STUDY["tasks"]),


rule grid:
    """All fine-tuning runs."""
    input:
        grid("{results}/finetune/{task}/n{size}/metrics.parquet"),


rule taskvectors:
    """Task vectors: cosines, merged and negated models, disentanglement."""
    input:
        "<results>/taskvectors/cosine.parquet",
        "<results>/taskvectors/overlap.parquet",
        "<results>/taskvectors/merged.parquet",
        collect("<results>/taskvectors/disentanglement/{merge}.parquet", merge=MERGED_PAIRS),


rule theory:
    """Stopping rules, linearisation, drift, widths, and the check on a known target."""
    input:
        "<results>/theory/simulation.parquet",
        "<results>/theory/width.parquet",
        collect("<results>/theory/{task}/stopping.parquet", task=STUDY["tasks"]),
        collect("<results>/theory/{task}/rules.parquet", task=RULED),
        collect("<results>/theory/{task}/trace.parquet", task=TRACED),


rule report:
    """Everything that the report shows; `snakemake --report FILE` then writes it."""
    input:
        rules.all.input,


rule fig4:
    """Eigenvalue decay of the study's first task."""
    input:
        decay_figure_files("fig4"),


rule fig5:
    """Eigenvalue decay of the study's second task."""
    input:
        decay_figure_files("fig5"),


rule fig6:
    """Eigenvalue decay of the study's third task."""
    input:
        decay_figure_files("fig6"),


rule fig7:
    """Eigenvalue decay of the study's fourth task."""
    input:
        decay_figure_files("fig7"),


rule fig8:
    """Eigenvalue decay of the study's fifth task."""
    input:
        decay_figure_files("fig8"),


rule fig9:
    """Eigenvalue decay of the study's sixth task."""
    input:
        decay_figure_files("fig9"),
