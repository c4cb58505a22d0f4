"""Chapter linearized: fine-tuning held near the pretrained weights, and which layers to train.

Needs: per task data/<task>/tokens.safetensors, draws.json and subsets.json; data/model.
Makes: linearized/<task>/sets.parquet (what the kernel of each set of layers says before training),
    layers.parquet (what each layer's own says), and grams.safetensors (each weight's own kernel, of which the
    others are sums); tune.parquet (test scores of each set, trained at the learning rate that suits it); hold.parquet (fine-tuning with penalties
    (lambda/2) |theta - theta_P|^2, beside its linearised twin; Afzal et al. 2026); and radius.parquet (how
    the Jacobian changes with the distance from the pretrained weights).
"""


rule linearized_sets:
    """Compute each weight's own kernel, and what those of sets of layers say of training."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        draws="<results>/data/{task}/draws.json",
    output:
        sets="<results>/linearized/{task}/sets.parquet",
        layers="<results>/linearized/{task}/layers.parquet",
        grams="<results>/linearized/{task}/grams.safetensors",
    log:
        "<logs>/linearized/{task}-sets.log",
    benchmark:
        "<benchmarks>/linearized/{task}-sets.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=60,
    params:
        **of_command("linearized sets"),
    shell:
        """
        python -m ntktune linearized sets \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --draws {input.draws:q} \
            --task {wildcards.task:q} \
            {params.options:q} \
            --out {output.sets:q} \
            --out-layers {output.layers:q} \
            --out-grams {output.grams:q} \
            2>{log:q}
        """


rule linearized_tune:
    """Fine-tune sets of layers, each at the learning rate that the hold-out chooses for it."""
    input:
        **TRAINED_ON,
        rates=chosen_rates(LINEAR_METHOD),
    output:
        "<results>/linearized/{task}/tune.parquet",
    log:
        "<logs>/linearized/{task}-tune.log",
    benchmark:
        "<benchmarks>/linearized/{task}-tune.tsv"
    priority: 3
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=480,
    params:
        **of_training("linearized tune", LINEAR_METHOD),
        rates=chosen_rate,
        # none of the outputs, which a failed job loses: a killed one goes on from here
        state=f"{RESULTS}/state/linearized/{{task}}",
    shell:
        """
        python -m ntktune linearized tune \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            --state {params.state:q} \
            {params.rates:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


rule linearized_hold:
    """Hold fine-tuning near its start by penalties: how linear it stays, and what that costs."""
    input:
        **TRAINED_ON,
        rates=chosen_rates(HELD_METHOD),
    output:
        hold="<results>/linearized/{task}/hold.parquet",
        radius="<results>/linearized/{task}/radius.parquet",
    log:
        "<logs>/linearized/{task}-hold.log",
    benchmark:
        "<benchmarks>/linearized/{task}-hold.tsv"
    priority: 2
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=6000,
        runtime=480,
    params:
        **of_training("linearized hold", HELD_METHOD),
        rates=chosen_rate,
    shell:
        """
        python -m ntktune linearized hold \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            {params.rates:q} \
            {params.options:q} \
            --out {output.hold:q} \
            --out-radius {output.radius:q} \
            2>{log:q}
        """
