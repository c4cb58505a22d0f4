"""Chapter figures: every figure and table, from tables only.

Needs: the tables of the chapters spectrum, finetune, taskvectors and theory.
Makes: figures/fig2 ... fig10, prediction, epochs, layers, addition, negation, disentanglement and the theory's
    (pdf, svg, png), figures/table1.csv (decay rates), table2.csv (stopping), table3.csv (merged models),
    table4.csv (test scores), table5.csv ... table7.csv (theory), table8.csv (cosines), table9.csv (negated
    models) and verdicts.csv (the paper's claims, each with its statistic).
On a cluster these rules run where Snakemake runs: a figure takes seconds, a queue hours.
"""


rule fig2:
    """Learning curves: test error against labelled examples (SR26 figure 2)."""
    input:
        offered("fig2"),
        metrics=grid("{results}/finetune/{task}/n{size}/metrics.parquet"),
        untuned=collect("<results>/finetune/{task}/baselines.parquet", task=STUDY["tasks"]),
    output:
        pdf="<results>/figures/fig2.pdf",
        svg="<results>/figures/fig2.svg",
        provenance="<results>/figures/fig2.json",
        png=report(
            "<results>/figures/fig2.png",
            caption="../report/fig2.rst",
            category="Figures",
            labels={"figure": "2", "shows": "learning curves"},
        ),
    log:
        "<logs>/figures/fig2.log",
    benchmark:
        "<benchmarks>/figures/fig2.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:fig2"),
        tasks=lookup(dpath="tasks", within=STUDY),
        color=lookup(dpath="figures/fig2/color", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures fig2 \
            --metrics {input.metrics:q} \
            --untuned {input.untuned:q} \
            --tasks {params.tasks:q} \
            --color {params.color:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule fig3:
    """Task vectors: cosines, and merged against single models (SR26 figure 3)."""
    input:
        offered("fig3"),
        cosine="<results>/taskvectors/cosine.parquet",
        merged="<results>/taskvectors/merged.parquet",
    output:
        pdf="<results>/figures/fig3.pdf",
        svg="<results>/figures/fig3.svg",
        provenance="<results>/figures/fig3.json",
        png=report(
            "<results>/figures/fig3.png",
            caption="../report/fig3.rst",
            category="Figures",
            labels={"figure": "3", "shows": "task vectors"},
        ),
    log:
        "<logs>/figures/fig3.log",
    benchmark:
        "<benchmarks>/figures/fig3.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:fig3"),
        tasks=lookup(dpath="taskvectors/tasks", within=STUDY),
        colormap=lookup(dpath="figures/fig3/colormap", within=STUDY),
        colors=lookup(dpath="figures/fig3/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures fig3 \
            --cosine {input.cosine:q} \
            --merged {input.merged:q} \
            --tasks {params.tasks:q} \
            --colormap {params.colormap:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule decay_figure:
    """Eigenvalue decay of one task with its fitted line (SR26 figures 4-9)."""
    input:
        eigenvalues=lambda wildcards: f"{RESULTS}/spectrum/{DECAY_FIGURES[wildcards.figure]}/eigenvalues.parquet",
        fits=lambda wildcards: f"{RESULTS}/spectrum/{DECAY_FIGURES[wildcards.figure]}/decay.parquet",
        summary=lambda wildcards: f"{RESULTS}/spectrum/{DECAY_FIGURES[wildcards.figure]}/summary.json",
    output:
        pdf="<results>/figures/{figure}.pdf",
        svg="<results>/figures/{figure}.svg",
        provenance="<results>/figures/{figure}.json",
        png=report(
            "<results>/figures/{figure}.png",
            caption="../report/decay.rst",
            category="Figures",
            labels={"figure": "{figure}", "shows": "eigenvalue decay"},
        ),
    log:
        "<logs>/figures/{figure}.log",
    benchmark:
        "<benchmarks>/figures/{figure}.tsv"
    wildcard_constraints:
        figure="|".join(DECAY_FIGURES),
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:decay"),
        color=lambda wildcards: STUDY["figures"].get(wildcards.figure, STUDY["figures"]["fig9"])[
            "color"
        ],
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures decay \
            --eigenvalues {input.eigenvalues:q} \
            --fits {input.fits:q} \
            --summary {input.summary:q} \
            --color {params.color:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule fig10:
    """F1 score against labelled examples (SR26 figure 10)."""
    input:
        offered("fig10"),
        metrics=grid("{results}/finetune/{task}/n{size}/metrics.parquet"),
    output:
        pdf="<results>/figures/fig10.pdf",
        svg="<results>/figures/fig10.svg",
        provenance="<results>/figures/fig10.json",
        png=report(
            "<results>/figures/fig10.png",
            caption="../report/fig10.rst",
            category="Figures",
            labels={"figure": "10", "shows": "F1"},
        ),
    log:
        "<logs>/figures/fig10.log",
    benchmark:
        "<benchmarks>/figures/fig10.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:fig10"),
        tasks=lookup(dpath="tasks", within=STUDY),
        color=lookup(dpath="figures/fig10/color", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures fig10 \
            --metrics {input.metrics:q} \
            --tasks {params.tasks:q} \
            --color {params.color:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule prediction:
    """What the kernel's decay predicts against what fine-tuning shows (SR26 eq 30)."""
    input:
        offered("prediction"),
        table1="<results>/figures/table1.csv",
        summaries=collect("<results>/spectrum/{task}/summary.json", task=STUDY["tasks"]),
    output:
        pdf="<results>/figures/prediction.pdf",
        svg="<results>/figures/prediction.svg",
        provenance="<results>/figures/prediction.json",
        png=report(
            "<results>/figures/prediction.png",
            caption="../report/prediction.rst",
            category="Figures",
            labels={"figure": "prediction", "shows": "predicted against measured"},
        ),
    log:
        "<logs>/figures/prediction.log",
    benchmark:
        "<benchmarks>/figures/prediction.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:prediction"),
        colors=lookup(dpath="figures/prediction/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures prediction \
            --table1 {input.table1:q} \
            --summaries {input.summaries:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule epochs:
    """Test error against the epoch, without early stopping."""
    input:
        offered("epochs"),
        histories=collect(
            "<results>/finetune/{task}/fixed/n{size}/history.parquet",
            task=STUDY["tasks"],
            size=FIXED_SIZE,
        ),
    output:
        pdf="<results>/figures/epochs.pdf",
        svg="<results>/figures/epochs.svg",
        provenance="<results>/figures/epochs.json",
        png=report(
            "<results>/figures/epochs.png",
            caption="../report/epochs.rst",
            category="Figures",
            labels={"figure": "epochs", "shows": "test error against the epoch"},
        ),
    log:
        "<logs>/figures/epochs.log",
    benchmark:
        "<benchmarks>/figures/epochs.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:epochs"),
        tasks=lookup(dpath="tasks", within=STUDY),
        color=lookup(dpath="figures/epochs/color", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures epochs \
            --histories {input.histories:q} \
            --tasks {params.tasks:q} \
            --color {params.color:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule simulation:
    """The outside check of the stopping rule, on a known target."""
    input:
        offered("simulation"),
        errors="<results>/theory/simulation.parquet",
        radii="<results>/theory/radii.parquet",
    output:
        pdf="<results>/figures/simulation.pdf",
        svg="<results>/figures/simulation.svg",
        provenance="<results>/figures/simulation.json",
        png=report(
            "<results>/figures/simulation.png",
            caption="../report/simulation.rst",
            category="Figures",
            labels={"figure": "simulation", "shows": "stopping rules on a known target"},
        ),
    log:
        "<logs>/figures/simulation.log",
    benchmark:
        "<benchmarks>/figures/simulation.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:simulation"),
        colors=lookup(dpath="figures/simulation/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures simulation \
            --errors {input.errors:q} \
            --radii {input.radii:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule table1:
    """Decay exponents with the predicted and the measured rate (SR26 eqs 29-32)."""
    input:
        offered("table1"),
        summaries=collect("<results>/spectrum/{task}/summary.json", task=STUDY["tasks"]),
        metrics=grid("{results}/finetune/{task}/n{size}/metrics.parquet"),
        subsets=collect("<results>/data/{task}/subsets.json", task=STUDY["tasks"]),
    output:
        csv=report(
            "<results>/figures/table1.csv",
            caption="../report/table1.rst",
            category="Tables",
            labels={"table": "table1", "shows": "decay rates"},
        ),
        provenance="<results>/figures/table1.json",
    log:
        "<logs>/figures/table1.log",
    benchmark:
        "<benchmarks>/figures/table1.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:table1"),
    shell:
        """
        python -m ntktune figures table1 \
            --summaries {input.summaries:q} \
            --metrics {input.metrics:q} \
            --subsets {input.subsets:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule table2:
    """Critical radius and stopping time beside the hold-out's stop."""
    input:
        offered("table2"),
        stopping=collect("<results>/theory/{task}/stopping.parquet", task=STUDY["tasks"]),
        metrics=grid("{results}/finetune/{task}/n{size}/metrics.parquet"),
    output:
        csv=report(
            "<results>/figures/table2.csv",
            caption="../report/table2.rst",
            category="Tables",
            labels={"table": "table2", "shows": "stopping times"},
        ),
        provenance="<results>/figures/table2.json",
    log:
        "<logs>/figures/table2.log",
    benchmark:
        "<benchmarks>/figures/table2.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:table2"),
    shell:
        """
        python -m ntktune figures table2 \
            --stopping {input.stopping:q} \
            --metrics {input.metrics:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule layers:
    """Cosines between task vectors by group of layers."""
    input:
        offered("layers"),
        cosine="<results>/taskvectors/cosine.parquet",
    output:
        pdf="<results>/figures/layers.pdf",
        svg="<results>/figures/layers.svg",
        provenance="<results>/figures/layers.json",
        png=report(
            "<results>/figures/layers.png",
            caption="../report/layers.rst",
            category="Figures",
            labels={"figure": "layers", "shows": "task vectors by layer"},
        ),
    log:
        "<logs>/figures/layers.log",
    benchmark:
        "<benchmarks>/figures/layers.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:layers"),
        colors=lookup(dpath="figures/layers/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures layers \
            --cosine {input.cosine:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule addition:
    """Scores of merged models against the coefficient (SR26 eqs 22-25)."""
    input:
        offered("addition"),
        sweep="<results>/taskvectors/sweep.parquet",
        merged="<results>/taskvectors/merged.parquet",
    output:
        pdf="<results>/figures/addition.pdf",
        svg="<results>/figures/addition.svg",
        provenance="<results>/figures/addition.json",
        png=report(
            "<results>/figures/addition.png",
            caption="../report/addition.rst",
            category="Figures",
            labels={"figure": "addition", "shows": "addition of task vectors"},
        ),
    log:
        "<logs>/figures/addition.log",
    benchmark:
        "<benchmarks>/figures/addition.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:addition"),
        colors=lookup(dpath="figures/addition/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures addition \
            --sweep {input.sweep:q} \
            --merged {input.merged:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule negation:
    """What taking a task vector away does to its task and to others (SR26 eq 24)."""
    input:
        offered("negation"),
        negated="<results>/taskvectors/negated.parquet",
    output:
        pdf="<results>/figures/negation.pdf",
        svg="<results>/figures/negation.svg",
        provenance="<results>/figures/negation.json",
        png=report(
            "<results>/figures/negation.png",
            caption="../report/negation.rst",
            category="Figures",
            labels={"figure": "negation", "shows": "negation of task vectors"},
        ),
    log:
        "<logs>/figures/negation.log",
    benchmark:
        "<benchmarks>/figures/negation.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:negation"),
        colors=lookup(dpath="figures/negation/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures negation \
            --negated {input.negated:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule disentanglement:
    """How much two task vectors get into each other's way."""
    input:
        offered("disentanglement"),
        disentanglement=collect(
            "<results>/taskvectors/disentanglement/{pair}.parquet", pair=MERGED_PAIRS
        ),
    output:
        pdf="<results>/figures/disentanglement.pdf",
        svg="<results>/figures/disentanglement.svg",
        provenance="<results>/figures/disentanglement.json",
        png=report(
            "<results>/figures/disentanglement.png",
            caption="../report/disentanglement.rst",
            category="Figures",
            labels={"figure": "disentanglement", "shows": "weight disentanglement"},
        ),
    log:
        "<logs>/figures/disentanglement.log",
    benchmark:
        "<benchmarks>/figures/disentanglement.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:disentanglement"),
        colormap=lookup(dpath="figures/disentanglement/colormap", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures disentanglement \
            --disentanglement {input.disentanglement:q} \
            --colormap {params.colormap:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule table3:
    """Merged models: scores, normalised scores and overlaps."""
    input:
        offered("table3"),
        cosine="<results>/taskvectors/cosine.parquet",
        merged="<results>/taskvectors/merged.parquet",
        overlap="<results>/taskvectors/overlap.parquet",
    output:
        csv=report(
            "<results>/figures/table3.csv",
            caption="../report/table3.rst",
            category="Tables",
            labels={"table": "table3", "shows": "merged models"},
        ),
        provenance="<results>/figures/table3.json",
    log:
        "<logs>/figures/table3.log",
    benchmark:
        "<benchmarks>/figures/table3.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:table3"),
    shell:
        """
        python -m ntktune figures table3 \
            --cosine {input.cosine:q} \
            --merged {input.merged:q} \
            --overlap {input.overlap:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule table4:
    """Test scores of every task and size."""
    input:
        offered("table4"),
        metrics=grid("{results}/finetune/{task}/n{size}/metrics.parquet"),
    output:
        csv=report(
            "<results>/figures/table4.csv",
            caption="../report/table4.rst",
            category="Tables",
            labels={"table": "table4", "shows": "test scores"},
        ),
        provenance="<results>/figures/table4.json",
    log:
        "<logs>/figures/table4.log",
    benchmark:
        "<benchmarks>/figures/table4.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:table4"),
    shell:
        """
        python -m ntktune figures table4 \
            --metrics {input.metrics:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule descent:
    """Test error along kernel descent and ridge, with the stops of four rules."""
    input:
        offered("descent"),
        rules=theory_files("rules", RULED),
        paths=theory_files("ridge", RULED),
    output:
        pdf="<results>/figures/descent.pdf",
        svg="<results>/figures/descent.svg",
        provenance="<results>/figures/descent.json",
        png=report(
            "<results>/figures/descent.png",
            caption="../report/descent.rst",
            category="Figures",
            labels={"figure": "descent", "shows": "kernel descent and four stops"},
        ),
    log:
        "<logs>/figures/descent.log",
    benchmark:
        "<benchmarks>/figures/descent.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_theory:descent"),
        tasks=RULED,
        colors=lookup(dpath="figures/descent/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures descent \
            --rules {input.rules:q} \
            --paths {input.paths:q} \
            --tasks {params.tasks:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule linearisation:
    """Linearisation error and drift of the kernel along fine-tuning."""
    input:
        offered("linearisation"),
        theory_files("trace", TRACED),
    output:
        pdf="<results>/figures/linearisation.pdf",
        svg="<results>/figures/linearisation.svg",
        provenance="<results>/figures/linearisation.json",
        png=report(
            "<results>/figures/linearisation.png",
            caption="../report/linearisation.rst",
            category="Figures",
            labels={"figure": "linearisation", "shows": "linearisation and drift"},
        ),
    log:
        "<logs>/figures/linearisation.log",
    benchmark:
        "<benchmarks>/figures/linearisation.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_theory:linearisation"),
        tasks=TRACED,
        colors=lookup(dpath="figures/linearisation/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures linearisation \
            --traces {input:q} \
            --tasks {params.tasks:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule width:
    """Drift, linearisation error and distance against the width of networks."""
    input:
        offered("width"),
        networks="<results>/theory/width.parquet",
        slopes="<results>/theory/slopes.parquet",
    output:
        pdf="<results>/figures/width.pdf",
        svg="<results>/figures/width.svg",
        provenance="<results>/figures/width.json",
        png=report(
            "<results>/figures/width.png",
            caption="../report/width.rst",
            category="Figures",
            labels={"figure": "width", "shows": "networks of several widths"},
        ),
    log:
        "<logs>/figures/width.log",
    benchmark:
        "<benchmarks>/figures/width.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_theory:width"),
        colors=lookup(dpath="figures/width/colors", within=STUDY),
        dpi=lookup(dpath="figures/dpi", within=STUDY),
    shell:
        """
        python -m ntktune figures width \
            --networks {input.networks:q} \
            --slopes {input.slopes:q} \
            --colors {params.colors:q} \
            --dpi {params.dpi:q} \
            --out {output.pdf:q} {output.svg:q} {output.png:q} \
            2>{log:q}
        """


rule table5:
    """Four stopping rules in the kernel model, and ridge beside early stopping."""
    input:
        offered("table5"),
        rules=theory_files("rules", RULED),
        paths=theory_files("ridge", RULED),
    output:
        csv=report(
            "<results>/figures/table5.csv",
            caption="../report/table5.rst",
            category="Tables",
            labels={"table": "table5", "shows": "stopping rules and ridge"},
        ),
        provenance="<results>/figures/table5.json",
    log:
        "<logs>/figures/table5.log",
    benchmark:
        "<benchmarks>/figures/table5.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_theory:table5"),
    shell:
        """
        python -m ntktune figures table5 \
            --rules {input.rules:q} \
            --paths {input.paths:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule table6:
    """The linear picture along real fine-tuning."""
    input:
        offered("table6"),
        traces=theory_files("trace", TRACED),
        solutions=theory_files("trace_ridge", TRACED),
        stops=theory_files("stops", TRACED),
    output:
        csv=report(
            "<results>/figures/table6.csv",
            caption="../report/table6.rst",
            category="Tables",
            labels={"table": "table6", "shows": "linearisation, drift and stops"},
        ),
        provenance="<results>/figures/table6.json",
    log:
        "<logs>/figures/table6.log",
    benchmark:
        "<benchmarks>/figures/table6.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_theory:table6"),
    shell:
        """
        python -m ntktune figures table6 \
            --traces {input.traces:q} \
            --solutions {input.solutions:q} \
            --stops {input.stops:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule table7:
    """What the stopping time owes to the estimates of noise and radius."""
    input:
        offered("table7"),
        theory_files("sensitivity", STUDY["tasks"]),
    output:
        csv=report(
            "<results>/figures/table7.csv",
            caption="../report/table7.rst",
            category="Tables",
            labels={"table": "table7", "shows": "sensitivity of the stopping time"},
        ),
        provenance="<results>/figures/table7.json",
    log:
        "<logs>/figures/table7.log",
    benchmark:
        "<benchmarks>/figures/table7.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_theory:table7"),
    shell:
        """
        python -m ntktune figures table7 \
            --sensitivity {input:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule table8:
    """Cosines between task vectors by kind of pair and group of layers."""
    input:
        offered("table8"),
        cosine="<results>/taskvectors/cosine.parquet",
    output:
        csv=report(
            "<results>/figures/table8.csv",
            caption="../report/table8.rst",
            category="Tables",
            labels={"table": "table8", "shows": "cosines"},
        ),
        provenance="<results>/figures/table8.json",
    log:
        "<logs>/figures/table8.log",
    benchmark:
        "<benchmarks>/figures/table8.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:table8"),
    shell:
        """
        python -m ntktune figures table8 \
            --cosine {input.cosine:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule table9:
    """Negated task vectors: the target and the controls."""
    input:
        offered("table9"),
        negated="<results>/taskvectors/negated.parquet",
    output:
        csv=report(
            "<results>/figures/table9.csv",
            caption="../report/table9.rst",
            category="Tables",
            labels={"table": "table9", "shows": "negated models"},
        ),
        provenance="<results>/figures/table9.json",
    log:
        "<logs>/figures/table9.log",
    benchmark:
        "<benchmarks>/figures/table9.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures_taskvectors:table9"),
    shell:
        """
        python -m ntktune figures table9 \
            --negated {input.negated:q} \
            --out {output.csv:q} \
            2>{log:q}
        """


rule verdicts:
    """The paper's claims, each with its statistic on this study."""
    input:
        offered("verdicts"),
        **{name: collect(table, task=tasks) for name, (table, tasks) in THEORY_LISTS.items()},
        table1="<results>/figures/table1.csv",
        summaries=collect("<results>/spectrum/{task}/summary.json", task=STUDY["tasks"]),
        metrics=grid("{results}/finetune/{task}/n{size}/metrics.parquet"),
        merging=MERGING_TABLES.values(),
        simulated=SIMULATED_TABLES.values(),
        untuned=collect("<results>/finetune/{task}/baselines.parquet", task=STUDY["tasks"]),
        fits=collect("<results>/spectrum/{task}/decay.parquet", task=STUDY["tasks"]),
    output:
        csv=report(
            "<results>/figures/verdicts.csv",
            caption="../report/verdicts.rst",
            category="Tables",
            labels={"table": "verdicts", "shows": "verdicts"},
        ),
        provenance="<results>/figures/verdicts.json",
    log:
        "<logs>/figures/verdicts.log",
    benchmark:
        "<benchmarks>/figures/verdicts.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.figures:verdicts"),
        merging=lambda wildcards, input: option_flags(MERGING_TABLES, input.merging),
        simulated=lambda wildcards, input: option_flags(SIMULATED_TABLES, input.simulated),
    shell:
        """
        python -m ntktune figures verdicts \
            --table1 {input.table1:q} \
            --summaries {input.summaries:q} \
            --fits {input.fits:q} \
            --metrics {input.metrics:q} \
            --stopping {input.stopping:q} \
            {params.merging:q} \
            {params.simulated:q} \
            --rules {input.rules:q} \
            --paths {input.paths:q} \
            --traces {input.traces:q} \
            --solutions {input.solutions:q} \
            --stops {input.stops:q} \
            --untuned {input.untuned:q} \
            --out {output.csv:q} \
            2>{log:q}
        """
