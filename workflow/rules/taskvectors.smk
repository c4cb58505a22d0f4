"""Chapter taskvectors: fine-tuned minus pretrained weights, their cosines, sums and differences.

Needs: data/model, and per merged task data/<task>/table.parquet, tokens.safetensors and subsets.json.
Makes: taskvectors/<task>/seed<k>.safetensors and again.safetensors (fine-tuned models),
    cosine.parquet, overlap.parquet and leaked.parquet (test texts that were trained on),
    addition/<merge>.parquet and negation/<task>.parquet (answers of theta_P + lambda * sum of task
    vectors and of theta_P - lambda * one, each task with its own head), disentanglement/<pair>.parquet,
    and from the answers sweep.parquet, merged.parquet and negated.parquet (scores): SR26 section 5.2,
    eqs 22-25.
"""


rule tuned_weights:
    """Fine-tune one task with several seeds and keep the weights of each best hold-out model."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        subsets="<results>/data/{task}/subsets.json",
    output:
        seeds=collect("<results>/taskvectors/{{task}}/seed{seed}.safetensors", seed=VECTOR_SEEDS),
        again=["<results>/taskvectors/{task}/again.safetensors"] * TWO_SAMPLES,
    log:
        "<logs>/taskvectors/{task}.log",
    benchmark:
        "<benchmarks>/taskvectors/{task}.tsv"
    priority: 2
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=480,
    params:
        code=digest_of("ntktune.cli.taskvectors:tune"),
        seed=lookup(dpath="seed", within=STUDY),
        size=lookup(dpath="taskvectors/size", within=STUDY),
        store=lookup(dpath="taskvectors/store", within=STUDY),
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
        again=lambda wildcards, output: flag("--out-again", output.again),
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
            --store {params.store:q} \
            --device {params.device:q} \
            --out {output.seeds:q} \
            {params.again:q} \
            2>{log:q}
        """


rule task_vector_cosines:
    """Compute the cosines of task vectors: of two tasks, and of one task trained twice."""
    input:
        model="<results>/data/model",
        weights=collect(
            "<results>/taskvectors/{task}/{run}.safetensors",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
            run=[f"seed{seed}" for seed in VECTOR_SEEDS] + ["again"] * TWO_SAMPLES,
        ),
    output:
        "<results>/taskvectors/cosine.parquet",
    log:
        "<logs>/taskvectors/cosine.log",
    benchmark:
        "<benchmarks>/taskvectors/cosine.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=digest_of("ntktune.cli.taskvectors:cosine"),
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


rule text_overlap:
    """Count the test texts of each merged task that another one was trained on."""
    input:
        tables=collect(
            "<results>/data/{task}/table.parquet",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
        subsets=collect(
            "<results>/data/{task}/subsets.json",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
    output:
        counts="<results>/taskvectors/overlap.parquet",
        leaked="<results>/taskvectors/leaked.parquet",
    log:
        "<logs>/taskvectors/overlap.log",
    benchmark:
        "<benchmarks>/taskvectors/overlap.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.taskvectors_sweeps:overlap"),
        size=lookup(dpath="taskvectors/size", within=STUDY),
        seeds=lookup(dpath="taskvectors/merged_seeds", within=STUDY),
    shell:
        """
        python -m ntktune taskvectors overlap \
            --tables {input.tables:q} \
            --subsets {input.subsets:q} \
            --size {params.size:q} \
            --seeds {params.seeds:q} \
            --out-counts {output.counts:q} \
            --out-leaked {output.leaked:q} \
            2>{log:q}
        """


rule taskvectors_add:
    """Add the task vectors of one merge, and let the models answer each of its tasks."""
    input:
        model="<results>/data/model",
        weights=vector_files("taskvectors/{task}/seed{seed}.safetensors", merged_tasks),
        tokens=vector_files("data/{task}/tokens.safetensors", merged_tasks),
        subsets=vector_files("data/{task}/subsets.json", merged_tasks),
    output:
        "<results>/taskvectors/addition/{merge}.parquet",
    log:
        "<logs>/taskvectors/addition-{merge}.log",
    benchmark:
        "<benchmarks>/taskvectors/addition-{merge}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=240,
    params:
        code=digest_of("ntktune.cli.taskvectors_sweeps:add"),
        blocks=BLOCKS,
        tasks=merged_tasks,
        coefficients=COEFFICIENTS,
        validation=VALIDATION_ROWS,
        batch_tokens=lookup(dpath="finetune/batch_tokens", within=STUDY),
        device=lookup(dpath="device", within=STUDY),
    shell:
        """
        python -m ntktune taskvectors add \
            --model {input.model:q} \
            {params.blocks:q} \
            --tasks {params.tasks:q} \
            --weights {input.weights:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --coefficients {params.coefficients:q} \
            {params.validation:q} \
            --batch-tokens {params.batch_tokens:q} \
            --device {params.device:q} \
            --out {output:q} \
            2>{log:q}
        """


rule taskvectors_negate:
    """Subtract one task's vector, and let the models answer it and the other tasks."""
    input:
        model="<results>/data/model",
        weights=vector_files("taskvectors/{task}/seed{seed}.safetensors", negated_tasks),
        tokens=vector_files("data/{task}/tokens.safetensors", negated_tasks),
        subsets=vector_files("data/{task}/subsets.json", negated_tasks),
    output:
        "<results>/taskvectors/negation/{task}.parquet",
    log:
        "<logs>/taskvectors/negation-{task}.log",
    benchmark:
        "<benchmarks>/taskvectors/negation-{task}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=5000,
        runtime=240,
    params:
        code=digest_of("ntktune.cli.taskvectors_sweeps:negate"),
        blocks=BLOCKS,
        tasks=negated_tasks,
        coefficients=NEGATED_COEFFICIENTS,
        validation=VALIDATION_ROWS,
        batch_tokens=lookup(dpath="finetune/batch_tokens", within=STUDY),
        device=lookup(dpath="device", within=STUDY),
    shell:
        """
        python -m ntktune taskvectors negate \
            --model {input.model:q} \
            {params.blocks:q} \
            --tasks {params.tasks:q} \
            --weights {input.weights:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --coefficients {params.coefficients:q} \
            {params.validation:q} \
            --batch-tokens {params.batch_tokens:q} \
            --device {params.device:q} \
            --out {output:q} \
            2>{log:q}
        """


rule taskvectors_disentangle:
    """Compute how far two task vectors disturb each other's tasks, on a grid of coefficients."""
    input:
        model="<results>/data/model",
        weights=vector_files("taskvectors/{task}/seed{seed}.safetensors", merged_tasks),
        tokens=vector_files("data/{task}/tokens.safetensors", merged_tasks),
        subsets=vector_files("data/{task}/subsets.json", merged_tasks),
    output:
        "<results>/taskvectors/disentanglement/{merge}.parquet",
    log:
        "<logs>/taskvectors/disentanglement-{merge}.log",
    benchmark:
        "<benchmarks>/taskvectors/disentanglement-{merge}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=5000,
        runtime=240,
    params:
        code=digest_of("ntktune.cli.taskvectors_sweeps:disentangle"),
        blocks=BLOCKS,
        tasks=merged_tasks,
        grid=lookup(dpath="taskvectors/grid", within=STUDY),
        rows=lookup(dpath="taskvectors/grid_rows", within=STUDY),
        batch_tokens=lookup(dpath="finetune/batch_tokens", within=STUDY),
        device=lookup(dpath="device", within=STUDY),
    shell:
        """
        python -m ntktune taskvectors disentangle \
            --model {input.model:q} \
            {params.blocks:q} \
            --tasks {params.tasks:q} \
            --weights {input.weights:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --grid {params.grid:q} \
            --rows {params.rows:q} \
            --batch-tokens {params.batch_tokens:q} \
            --device {params.device:q} \
            --out {output:q} \
            2>{log:q}
        """


rule merged_scores:
    """Score the merged and the negated models, the coefficient chosen on validation rows."""
    input:
        added=collect("<results>/taskvectors/addition/{merge}.parquet", merge=MERGE_TASKS),
        negated=collect(
            "<results>/taskvectors/negation/{task}.parquet",
            task=lookup(dpath="taskvectors/tasks", within=STUDY),
        ),
        leaked="<results>/taskvectors/leaked.parquet",
        overlap="<results>/taskvectors/overlap.parquet",
    output:
        sweep="<results>/taskvectors/sweep.parquet",
        merged="<results>/taskvectors/merged.parquet",
        negated="<results>/taskvectors/negated.parquet",
    log:
        "<logs>/taskvectors/scores.log",
    benchmark:
        "<benchmarks>/taskvectors/scores.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=digest_of("ntktune.cli.taskvectors_sweeps:score"),
        coefficient=lookup(dpath="taskvectors/coefficient", within=STUDY),
        candidates=lookup(dpath="taskvectors/coefficients", within=STUDY),
    shell:
        """
        python -m ntktune taskvectors score \
            --added {input.added:q} \
            --negated {input.negated:q} \
            --leaked {input.leaked:q} \
            --overlap {input.overlap:q} \
            --coefficient {params.coefficient:q} \
            --candidates {params.candidates:q} \
            --out-sweep {output.sweep:q} \
            --out-merged {output.merged:q} \
            --out-negated {output.negated:q} \
            2>{log:q}
        """
