"""Chapter taskvectors: fine-tuned minus pretrained weights, their cosines, and merged models.

Needs: data/model, and per merged task data/<task>/tokens.safetensors and subsets.json.
Makes: taskvectors/<task>/weights.safetensors (one fine-tuned model per task), cosine.parquet and
    merged.parquet (theta_P + coefficient * sum of task vectors, each task with its own head),
    SR26 section 5.2, eqs 22-25.
"""


rule tuned_weights:
    """Fine-tune one task and keep the weights of its best hold-out model."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        subsets="<results>/data/{task}/subsets.json",
    output:
        "<results>/taskvectors/{task}/weights.safetensors",
    log:
        "<logs>/taskvectors/{task}.log",
    benchmark:
        "<benchmarks>/taskvectors/{task}.tsv"
    priority: 2
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=240,
    params:
        code=code_digest("ntktune.cli.taskvectors:tune"),
        seed=lookup(dpath="seed", within=STUDY),
        size=lookup(dpath="taskvectors/size", within=STUDY),
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
    shell:
        """
        python -m ntktune taskvectors tune \
            --model {input.model:q} \
            {params.blocks:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            --size {params.size:q} \
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
            --out {output:q} \
            2>{log:q}
        """


rule task_vector_cosines:
    """Compute the cosine of every pair of task vectors."""
    input:
        model="<results>/data/model",
        weights=collect(
            "<results>/taskvectors/{task}/weights.safetensors",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
    output:
        "<results>/taskvectors/cosine.parquet",
    log:
        "<logs>/taskvectors/cosine.log",
    benchmark:
        "<benchmarks>/taskvectors/cosine.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        code=code_digest("ntktune.cli.taskvectors:cosine"),
        blocks=BLOCKS,
    shell:
        """
        python -m ntktune taskvectors cosine \
            --model {input.model:q} \
            {params.blocks:q} \
            --weights {input.weights:q} \
            --out {output:q} \
            2>{log:q}
        """


rule merged_models:
    """Add task vectors, pairwise and all together, and test each task with its own head."""
    input:
        model="<results>/data/model",
        weights=collect(
            "<results>/taskvectors/{task}/weights.safetensors",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
        tokens=collect(
            "<results>/data/{task}/tokens.safetensors",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
        subsets=collect(
            "<results>/data/{task}/subsets.json",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
    output:
        "<results>/taskvectors/merged.parquet",
    log:
        "<logs>/taskvectors/merged.log",
    benchmark:
        "<benchmarks>/taskvectors/merged.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=6000,
        runtime=120,
    params:
        code=code_digest("ntktune.cli.taskvectors:merge"),
        blocks=BLOCKS,
        coefficient=lookup(dpath="taskvectors/coefficient", within=STUDY),
        batch_tokens=lookup(dpath="finetune/batch_tokens", within=STUDY),
        device=lookup(dpath="device", within=STUDY),
    shell:
        """
        python -m ntktune taskvectors merge \
            --model {input.model:q} \
            {params.blocks:q} \
            --weights {input.weights:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --coefficient {params.coefficient:q} \
            --batch-tokens {params.batch_tokens:q} \
            --device {params.device:q} \
            --out {output:q} \
            2>{log:q}
        """
