"""Chapter finetune: fine-tuning on a grid of sample sizes, with hold-out early stopping.

Needs: data/model, and per task data/<task>/tokens.safetensors and subsets.json.
Makes: finetune/<task>/n<size>/metrics.parquet (test scores of the best hold-out model, one row per
    seed) and history.parquet (losses at every evaluation), SR26 section 5.1; finetune/<task>/fixed/ the
    same without early stopping, with the test error after every epoch; finetune/<task>/baselines.parquet
    (predictions without fine-tuning: linear probe and the NTK's).
"""


rule finetune_run:
    """Fine-tune one task on one sample size, all seeds in one process."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        subsets="<results>/data/{task}/subsets.json",
    output:
        metrics="<results>/finetune/{task}/n{size}/metrics.parquet",
        history="<results>/finetune/{task}/n{size}/history.parquet",
    log:
        "<logs>/finetune/{task}/n{size}.log",
    benchmark:
        "<benchmarks>/finetune/{task}/n{size}.tsv"
    # the longest jobs first, so that no core idles at the end
    priority: 1
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=240,
    params:
        code=digest_of("ntktune.cli.finetune:run"),
        seed=lookup(dpath="seed", within=STUDY),
        blocks=BLOCKS,
        dtype=TUNING_DTYPE,
        device=lookup(dpath="device", within=STUDY),
        learning_rate=lookup(dpath="finetune/learning_rate", within=STUDY),
        weight_decay=lookup(dpath="finetune/weight_decay", within=STUDY),
        batch_size=lookup(dpath="finetune/batch_size", within=STUDY),
        max_epochs=lookup(dpath="finetune/max_epochs", within=STUDY),
        evaluation=EVALUATION,
        patience=PATIENCE,
        checkpointing=CHECKPOINTING,
        batch_tokens=lookup(dpath="finetune/batch_tokens", within=STUDY),
        # none of the outputs, which a failed job loses: a killed one goes on from here
        state=lambda wildcards: f"{RESULTS}/state/finetune/{wildcards.task}/n{wildcards.size}",
    shell:
        """
        python -m ntktune finetune run \
            --model {input.model:q} \
            {params.blocks:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            --size {wildcards.size:q} \
            --seed {params.seed:q} \
            --learning-rate {params.learning_rate:q} \
            --weight-decay {params.weight_decay:q} \
            --batch-size {params.batch_size:q} \
            --max-epochs {params.max_epochs:q} \
            {params.evaluation:q} \
            {params.patience:q} \
            {params.checkpointing:q} \
            --batch-tokens {params.batch_tokens:q} \
            --dtype {params.dtype:q} \
            --device {params.device:q} \
            --state {params.state:q} \
            --out-metrics {output.metrics:q} \
            --out-history {output.history:q} \
            2>{log:q}
        """


use rule finetune_run as fixed_epochs with:
    """Fine-tune one task on one sample size for a fixed number of epochs, without early stopping."""
    output:
        metrics="<results>/finetune/{task}/fixed/n{size}/metrics.parquet",
        history="<results>/finetune/{task}/fixed/n{size}/history.parquet",
    log:
        "<logs>/finetune/{task}/fixed-n{size}.log",
    benchmark:
        "<benchmarks>/finetune/{task}/fixed-n{size}.tsv"
    params:
        max_epochs=lookup(dpath="finetune/fixed_epochs", within=STUDY),
        evaluation=["--test-history"],
        patience=[],
        state=lambda wildcards: f"{RESULTS}/state/finetune/{wildcards.task}/fixed-n{wildcards.size}",


rule baselines:
    """Predict without fine-tuning: linear probe, and the NTK's learning curve from one matrix."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        subsets="<results>/data/{task}/subsets.json",
        kernels=LEARNING_KERNELS,
    output:
        "<results>/finetune/{task}/baselines.parquet",
    log:
        "<logs>/finetune/{task}/baselines.log",
    benchmark:
        "<benchmarks>/finetune/{task}/baselines.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=60,
    params:
        code=digest_of("ntktune.cli.finetune:baselines"),
        blocks=BLOCKS,
        sizes=lookup(dpath="finetune/sizes", within=STUDY),
        batch_tokens=lookup(dpath="finetune/batch_tokens", within=STUDY),
        device=lookup(dpath="device", within=STUDY),
        kernels=lambda wildcards, input: flag("--kernels", input.kernels),
    shell:
        """
        python -m ntktune finetune baselines \
            --model {input.model:q} \
            {params.blocks:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            --sizes {params.sizes:q} \
            {params.kernels:q} \
            --batch-tokens {params.batch_tokens:q} \
            --device {params.device:q} \
            --out {output:q} \
            2>{log:q}
        """
