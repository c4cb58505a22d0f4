"""Chapter theory: when gradient descent should stop, read from the kernel.

Needs: kernel/<task>/gram.safetensors.
Makes: theory/<task>/stopping.parquet, per draw the noise, the radius of the shift, the critical
    radius (SR26 eqs 10-11) and the stopping time of kernel gradient descent; theory/simulation.parquet
    and radii.parquet, the outside check (Raskutti, Wainwright & Yu 2014).
"""


rule stopping:
    """Compute critical radius and stopping time of every draw's kernel."""
    input:
        "<results>/kernel/{task}/gram.safetensors",
    output:
        "<results>/theory/{task}/stopping.parquet",
    log:
        "<logs>/theory/{task}.log",
    benchmark:
        "<benchmarks>/theory/{task}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code_digest("ntktune.cli.theory:stopping"),
        step_size_factor=lookup(dpath="theory/step_size_factor", within=STUDY),
    shell:
        """
        python -m ntktune theory stopping \
            --gram {input:q} \
            --step-size-factor {params.step_size_factor:q} \
            --out {output:q} \
            2>{log:q}
        """


rule simulation:
    """Repeat the simulation of Raskutti, Wainwright & Yu (2014): four stopping rules, f* known."""
    output:
        errors="<results>/theory/simulation.parquet",
        radii="<results>/theory/radii.parquet",
    log:
        "<logs>/theory/simulation.log",
    benchmark:
        "<benchmarks>/theory/simulation.tsv"
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code_digest("ntktune.cli.theory:simulate"),
        seed=lookup(dpath="seed", within=STUDY),
        sizes=lookup(dpath="theory/simulation_sizes", within=STUDY),
        repeats=lookup(dpath="theory/simulation_repeats", within=STUDY),
    shell:
        """
        python -m ntktune theory simulate \
            --sizes {params.sizes:q} \
            --repeats {params.repeats:q} \
            --seed {params.seed:q} \
            --out-errors {output.errors:q} \
            --out-radii {output.radii:q} \
            2>{log:q}
        """
