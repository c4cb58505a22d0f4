"""Chapter finetune: fine-tuning on a grid of sample sizes, with hold-out early stopping.

Needs: data/model, and per task data/<task>/tokens.safetensors and subsets.json. If the chapter taskvectors
    trains some of a cell's seeds, it goes first and keeps their results.
Makes, per method of fine-tuning: finetune/<task>/<method>/learning_rate.json, where `finetune.learning_rates`
    lists some to choose from; finetune/<task>/<method>/n<size>/metrics.parquet (test scores of the best
    hold-out model, one row per seed) and history.parquet (losses at every evaluation), SR26 section 5.1.
    finetune/<task>/fixed/, the first method without early stopping, with the test error after every epoch;
    finetune/<task>/baselines.parquet (predictions without fine-tuning: linear probe and the NTK's).
"""


rule finetune_choose:
    """Choose one task's learning rate by the hold-out, at one sample size."""
    input:
        **TRAINED_ON,
    output:
        "<results>/finetune/{task}/{method}/learning_rate.json",
    log:
        "<logs>/finetune/{task}/{method}/learning_rate.log",
    benchmark:
        "<benchmarks>/finetune/{task}/{method}/learning_rate.tsv"
    priority: 3
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=480,
    params:
        code=digest_of("ntktune.cli.finetune:choose"),
        options=lambda wildcards: of_training("finetune choose", wildcards.method)["options"],
        verb="choose",
        more=["--state", f"{STATE}/{{method}}/rates"],
    shell:
        """
        python -m ntktune finetune {params.verb:q} \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            {params.more:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


rule finetune_run:
    """Fine-tune one task on one sample size, all seeds in one process."""
    input:
        **TRAINED_ON,
        trained=trained_before,
        rates=chosen_rates("{method}"),
    output:
        metrics="<results>/finetune/{task}/{method}/n{size}/metrics.parquet",
        history="<results>/finetune/{task}/{method}/n{size}/history.parquet",
    log:
        "<logs>/finetune/{task}/{method}/n{size}.log",
    benchmark:
        "<benchmarks>/finetune/{task}/{method}/n{size}.tsv"
    # the longest jobs first, so that no core idles at the end
    priority: 1
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=240,
    params:
        code=digest_of("ntktune.cli.finetune:run"),
        options=lambda wildcards: of_training("finetune run", wildcards.method)["options"],
        rates=chosen_rate,
        # none of the outputs, which a failed job loses: a killed one goes on from here
        state=f"{STATE}/{{method}}",
        size=lambda wildcards: [int(wildcards.size)],
        seeds=lambda wildcards: few_seeds([int(wildcards.size)]),
    shell:
        """
        python -m ntktune finetune run \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            --size {params.size:q} \
            --state {params.state:q} \
            {params.seeds:q} \
            {params.rates:q} \
            {params.options:q} \
            --out-metrics {output.metrics:q} \
            --out-history {output.history:q} \
            2>{log:q}
        """


use rule finetune_run as finetune_fixed with:
    """Fine-tune one task on one sample size for a fixed number of epochs, without early stopping."""
    input:
        **TRAINED_ON,
        rates=chosen_rates(METHODS[0]),
    output:
        metrics="<results>/finetune/{task}/fixed/n{size}/metrics.parquet",
        history="<results>/finetune/{task}/fixed/n{size}/history.parquet",
    log:
        "<logs>/finetune/{task}/fixed-n{size}.log",
    benchmark:
        "<benchmarks>/finetune/{task}/fixed-n{size}.tsv"
    params:
        options=of_training(
            "finetune run",
            METHODS[0],
            max_epochs=STUDY["finetune"]["fixed_epochs"],
            max_steps=None,
            evaluate_every=None,
            patience=None,
        )["options"]
        + ["--test-history"],
        state=f"{STATE}/fixed",
        seeds=[],


use rule finetune_choose as finetune_baselines with:
    """Predict without fine-tuning: linear probe, and the NTK's learning curve from one matrix."""
    input:
        **TRAINED_ON,
        kernels=LEARNING_KERNELS,
    output:
        "<results>/finetune/{task}/baselines.parquet",
    log:
        "<logs>/finetune/{task}/baselines.log",
    benchmark:
        "<benchmarks>/finetune/{task}/baselines.tsv"
    priority: 0
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=60,
    params:
        **of_command("finetune baselines"),
        verb="baselines",
        more=lambda wildcards, input: flag("--kernels", input.kernels),
