"""Chapter theory: when gradient descent should stop, and whether the linear picture holds.

Needs: per task kernel/<task>/draws.safetensors and learning.safetensors, data/<task>/tokens.safetensors
    and subsets.json; data/model.
Makes: theory/<task>/stopping.parquet (per draw noise, radius of the shift, critical radius (SR26 eqs 10-11),
    stopping time of kernel gradient descent), sensitivity.parquet (the same by way of estimating),
    rules.parquet (four stopping rules in the kernel model), ridge.parquet (descent beside ridge, eq 27),
    trajectory.parquet (fine-tuning watched: linearisation, Lemma 1, and drift, eq 17),
    trajectory_ridge.parquet (the network at the ridge solution, eq 28), stops.parquet (where the rules
    stop the network); and
    theory/simulation.parquet, radii.parquet (the check of Raskutti, Wainwright & Yu 2014), width.parquet
    and slopes.parquet (networks of several widths).
"""


rule theory_stopping:
    """Compute critical radius and stopping time of every draw's kernel."""
    input:
        "<results>/kernel/{task}/draws.safetensors",
    output:
        stopping="<results>/theory/{task}/stopping.parquet",
        sensitivity="<results>/theory/{task}/sensitivity.parquet",
    log:
        "<logs>/theory/{task}.log",
    benchmark:
        "<benchmarks>/theory/{task}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        **of_command("theory stopping"),
    shell:
        """
        python -m ntktune theory stopping \
            --gram {input:q} \
            {params.options:q} \
            --out {output.stopping:q} \
            --out-sensitivity {output.sensitivity:q} \
            2>{log:q}
        """


rule theory_rules:
    """Stop kernel descent by four rules, and compare it with ridge, on nested samples."""
    input:
        kernels="<results>/kernel/{task}/learning.safetensors",
        subsets="<results>/data/{task}/subsets.json",
    output:
        rules="<results>/theory/{task}/rules.parquet",
        ridge="<results>/theory/{task}/ridge.parquet",
    log:
        "<logs>/theory/{task}-rules.log",
    benchmark:
        "<benchmarks>/theory/{task}-rules.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        **of_command("theory rules", sizes=LEARNING_SIZES),
    shell:
        """
        python -m ntktune theory rules \
            --kernels {input.kernels:q} \
            --subsets {input.subsets:q} \
            {params.options:q} \
            --out-rules {output.rules:q} \
            --out-ridge {output.ridge:q} \
            2>{log:q}
        """


rule theory_trajectory:
    """Fine-tune and watch: linearisation, drift, and stops on the theory's clock."""
    input:
        **TRAINED_ON,
        rates=chosen_rates("full"),
    output:
        evaluations="<results>/theory/{task}/trajectory.parquet",
        ridge="<results>/theory/{task}/trajectory_ridge.parquet",
        stops="<results>/theory/{task}/stops.parquet",
    log:
        "<logs>/theory/{task}-trajectory.log",
    benchmark:
        "<benchmarks>/theory/{task}-trajectory.tsv"
    priority: 1
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=6000,
        runtime=240,
    params:
        **of_command("theory trajectory"),
        rates=chosen_rate,
    shell:
        """
        python -m ntktune theory trajectory \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            {params.rates:q} \
            {params.options:q} \
            --out-evaluations {output.evaluations:q} \
            --out-ridge {output.ridge:q} \
            --out-stops {output.stops:q} \
            2>{log:q}
        """


rule theory_width:
    """Train attention networks of several widths, and measure how linear they are."""
    input:
        unfinished_first,
    output:
        networks="<results>/theory/width.parquet",
        slopes="<results>/theory/slopes.parquet",
    log:
        "<logs>/theory/width.log",
    benchmark:
        "<benchmarks>/theory/width.tsv"
    priority: 1
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        **of_command("theory width"),
    shell:
        """
        python -m ntktune theory width \
            {params.options:q} \
            --out {output.networks:q} \
            --out-slopes {output.slopes:q} \
            2>{log:q}
        """


rule theory_simulate:
    """Repeat the simulation of Raskutti, Wainwright & Yu (2014): four stopping rules, f* known."""
    input:
        unfinished_first,
    output:
        errors="<results>/theory/simulation.parquet",
        radii="<results>/theory/radii.parquet",
    log:
        "<logs>/theory/simulation.log",
    benchmark:
        "<benchmarks>/theory/simulation.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        **of_command("theory simulate"),
    shell:
        """
        python -m ntktune theory simulate \
            {params.options:q} \
            --out-errors {output.errors:q} \
            --out-radii {output.radii:q} \
            2>{log:q}
        """
