"""Chapter figures: every figure and table, from tables only.

Needs: the tables of the chapters spectrum, finetune, taskvectors and theory.
Makes: figures/<name>.pdf, .svg and .png, and figures/<name>.csv. ntktune/figures/catalogue.py lists
    them: here stand one rule for figures and one for tables, of which each entry becomes a rule and a
    target of its own name.
On a cluster these rules run where Snakemake runs: a figure takes seconds, a queue hours.
"""

for name, (entry, tasks) in DRAWN.items():

    rule:
        """Draw a figure."""
        name:
            name
        input:
            offered(name),
            **drawing_inputs(name),
        output:
            pdf=f"<results>/figures/{name}.pdf",
            svg=f"<results>/figures/{name}.svg",
            provenance=f"<results>/figures/{name}.json",
            png=report(
                f"<results>/figures/{name}.png",
                caption=f"../report/{entry.name}.rst",
                category="Figures",
                labels={"figure": name.removeprefix("fig"), "shows": entry.shows},
            ),
        log:
            f"<logs>/figures/{name}.log",
        benchmark:
            f"<benchmarks>/figures/{name}.tsv"
        localrule: True
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            code=digest_of(entry.code),
            figure=entry.name,
            tables=drawing_words(name),
            look=look_words(name, entry, LISTS, STUDY["figures"]),
        shell:
            """
            python -m ntktune figures draw {params.figure:q} \
                {params.tables:q} \
                {params.look:q} \
                --out {output.pdf:q} {output.svg:q} {output.png:q} \
                2>{log:q}
            """

    describe(name, f"Figure: {entry.shows}{f' of {tasks[0]}' if tasks else ''}.")


for name, entry in RESULT_TABLES.items():

    rule:
        """Make a table."""
        name:
            name
        input:
            offered(name),
            **drawing_inputs(name),
        output:
            csv=report(
                f"<results>/figures/{name}.csv",
                caption=f"../report/{name}.rst",
                category="Tables",
                labels={"table": name, "shows": entry.shows},
            ),
            provenance=f"<results>/figures/{name}.json",
        log:
            f"<logs>/figures/{name}.log",
        benchmark:
            f"<benchmarks>/figures/{name}.tsv"
        localrule: True
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            code=digest_of(entry.code),
            table=name,
            tables=drawing_words(name),
        shell:
            """
            python -m ntktune figures table {params.table:q} \
                {params.tables:q} \
                --out {output.csv:q} \
                2>{log:q}
            """

    describe(name, f"Table: {entry.shows}.")
