"""Chapter taskvectors: fine-tuned minus pretrained weights, their cosines, sums and differences.

Needs: data/model, and per merged task data/<task>/table.parquet, tokens.safetensors and subsets.json.
Makes: taskvectors/<task>/seed<k>.safetensors and again.safetensors (fine-tuned models), cosine.parquet,
    overlap.parquet and leaked.parquet (test texts that another task was trained on), addition/<merge>.parquet and
    negation/<task>.parquet (predictions of theta_P + lambda * sum of task vectors and of theta_P - lambda * one,
    each task with its own head), disentanglement/<merge>.parquet of pairs, and scores in
    sweep.parquet, merged.parquet and negated.parquet: SR26 section 5.2, eqs 22-25.
"""

TUNED = "<results>/taskvectors/{task}/seed{seed}.safetensors"


rule taskvectors_tune:
    """Fine-tune one task with several seeds and keep for each the weights of the lowest hold-out loss."""
    input:
        **TRAINED_ON,
        rates=chosen_rates(METHODS[0]),
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
        **of_training("taskvectors tune", METHODS[0]),
        again=lambda wildcards, output: flag("--out-again", output.again),
        rates=chosen_rate,
        # finetune_run takes the results of the same trainings from this folder
        state=f"{STATE}/{METHODS[0]}",
    shell:
        """
        python -m ntktune taskvectors tune \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            --state {params.state:q} \
            {params.rates:q} \
            {params.options:q} \
            --out {output.seeds:q} \
            {params.again:q} \
            2>{log:q}
        """


rule taskvectors_cosine:
    """Compute the cosines of task vectors: of two tasks, and of one task trained twice."""
    input:
        model="<results>/data/model",
        weights=collect(
            "<results>/taskvectors/{task}/{run}.safetensors",
            task=VECTOR_TASKS,
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
        **of_command("taskvectors cosine"),
    shell:
        """
        python -m ntktune taskvectors cosine \
            --model {input.model:q} \
            --weights {input.weights:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


rule taskvectors_overlap:
    """Count the test texts of each merged task that another one was trained on."""
    input:
        tables=collect("<results>/data/{task}/table.parquet", task=VECTOR_TASKS),
        subsets=collect("<results>/data/{task}/subsets.json", task=VECTOR_TASKS),
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
        **of_command("taskvectors overlap"),
    shell:
        """
        python -m ntktune taskvectors overlap \
            --tables {input.tables:q} \
            --subsets {input.subsets:q} \
            {params.options:q} \
            --out-counts {output.counts:q} \
            --out-leaked {output.leaked:q} \
            2>{log:q}
        """


rule taskvectors_add:
    """Add the task vectors of one merge, and predict with the models on each of its tasks."""
    input:
        model="<results>/data/model",
        weights=collect(TUNED, task=answered_tasks, seed=MERGED_SEEDS),
        tokens=collect("<results>/data/{task}/tokens.safetensors", task=answered_tasks),
        subsets=collect("<results>/data/{task}/subsets.json", task=answered_tasks),
    output:
        "<results>/taskvectors/addition/{merge}.parquet",
    log:
        "<logs>/taskvectors/addition-{merge}.log",
    benchmark:
        "<benchmarks>/taskvectors/addition-{merge}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=5000,
        runtime=240,
    params:
        **of_command("taskvectors add", coefficients=COEFFICIENTS),
        verb="add",
        tasks=answered_tasks,
    shell:
        """
        python -m ntktune taskvectors {params.verb:q} \
            --model {input.model:q} \
            --tasks {params.tasks:q} \
            --weights {input.weights:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


use rule taskvectors_add as taskvectors_negate with:
    """Subtract one task's vector, and let the models answer it and the other tasks."""
    output:
        "<results>/taskvectors/negation/{task}.parquet",
    log:
        "<logs>/taskvectors/negation-{task}.log",
    benchmark:
        "<benchmarks>/taskvectors/negation-{task}.tsv"
    params:
        **of_command("taskvectors negate"),
        verb="negate",


use rule taskvectors_add as taskvectors_disentangle with:
    """Compute how far two task vectors disturb each other's tasks, on a grid of coefficients."""
    output:
        "<results>/taskvectors/disentanglement/{merge}.parquet",
    log:
        "<logs>/taskvectors/disentanglement-{merge}.log",
    benchmark:
        "<benchmarks>/taskvectors/disentanglement-{merge}.tsv"
    params:
        **of_command("taskvectors disentangle"),
        verb="disentangle",


rule taskvectors_score:
    """Score the merged and the negated models, the coefficient chosen on validation rows."""
    input:
        added=collect("<results>/taskvectors/addition/{merge}.parquet", merge=MERGE_TASKS),
        negated=collect("<results>/taskvectors/negation/{task}.parquet", task=VECTOR_TASKS),
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
        **of_command("taskvectors score"),
    shell:
        """
        python -m ntktune taskvectors score \
            --added {input.added:q} \
            --negated {input.negated:q} \
            --leaked {input.leaked:q} \
            --overlap {input.overlap:q} \
            {params.options:q} \
            --out-sweep {output.sweep:q} \
            --out-merged {output.merged:q} \
            --out-negated {output.negated:q} \
            2>{log:q}
        """
