"""Chapter selection: candidate models, their scores before training, and how they fine-tune.

Needs: data/model, and per task data/<task>/table.parquet, tokens.safetensors and subsets.json.
Makes: selection/models/<candidate>, a model with a source of its own, and its tokens; per task and candidate
    selection/<task>/<candidate>/scores.parquet (training-free scores of features and of the NTK) and
    .../<pooling>/<method>/metrics.parquet (its learning curve); per task selection/<task>/scores.parquet
    and curves.parquet, these of all candidates (Lin et al. 2024; LENSLLM 2025).
"""


use rule data_fetch_model as selection_fetch with:
    """Get a candidate model from hub, folder or GGUF file, as safetensors."""
    input:
        unfinished_first,
        package=lambda wildcards: package_files([candidate(wildcards)["source"]]),
        files=ancient(lambda wildcards: model_files(candidate(wildcards))),
    output:
        directory("<results>/selection/models/{candidate}"),
    log:
        "<logs>/selection/fetch-{candidate}.log",
    benchmark:
        "<benchmarks>/selection/fetch-{candidate}.tsv"
    retries: 3 * any("hub" in source for source in CANDIDATE_SOURCES)
    localrule: True  # not inherited
    params:
        source=lambda wildcards: compact_json(
            {key: candidate(wildcards)[key] for key in ("name", "licence")}
            | candidate(wildcards)["source"]
        ),
        content=content_of(lambda wildcards: model_files(candidate(wildcards))),


use rule data_tokenize as selection_tokenize with:
    """Tokenise one task's texts by a candidate's own tokenizer."""
    input:
        table="<results>/data/{task}/table.parquet",
        model="<results>/selection/models/{candidate}",
    output:
        "<results>/selection/{task}/{candidate}/tokens.safetensors",
    log:
        "<logs>/selection/{task}/{candidate}-tokens.log",
    benchmark:
        "<benchmarks>/selection/{task}/{candidate}-tokens.tsv"
    localrule: True  # not inherited
    params:
        options=candidate_options("data tokenize", "max_tokens", "prefix_token"),


rule selection_score:
    """Score a candidate on a task's largest samples, without training."""
    input:
        unpack(read_candidate),
    output:
        "<results>/selection/{task}/{candidate}/scores.parquet",
    log:
        "<logs>/selection/{task}/{candidate}-scores.log",
    benchmark:
        "<benchmarks>/selection/{task}/{candidate}-scores.tsv"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=6000,
        runtime=120,
    params:
        code=digest_of("ntktune.cli.selection:score"),
        options=candidate_options("selection score", "blocks", size=max(SELECTION["sizes"])),
    shell:
        """
        python -m ntktune selection score \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            --subsets {input.subsets:q} \
            --task {wildcards.task:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


use rule finetune_choose as selection_choose with:
    """Choose a candidate's learning rate on a task by the hold-out, at one sample size."""
    input:
        unpack(read_candidate),
    output:
        "<results>/selection/{task}/{candidate}/{pooling}/{method}/learning_rate.json",
    log:
        "<logs>/selection/{task}/{candidate}-{pooling}-{method}-rates.log",
    benchmark:
        "<benchmarks>/selection/{task}/{candidate}-{pooling}-{method}-rates.tsv"
    params:
        options=candidate_training("finetune choose"),
        more=[
            "--state",
            f"{RESULTS}/state/selection/{{task}}/{{candidate}}/{{pooling}}/{{method}}/rates",
        ],


use rule finetune_run as selection_run with:
    """Fine-tune a candidate on one task, all sizes and seeds in one process."""
    input:
        unpack(read_candidate),
        rates=[
            f"{RESULTS}/selection/{{task}}/{{candidate}}/{{pooling}}/{{method}}/learning_rate.json"
        ]
        * bool(STUDY["finetune"]["learning_rates"]),
    output:
        metrics="<results>/selection/{task}/{candidate}/{pooling}/{method}/metrics.parquet",
        history="<results>/selection/{task}/{candidate}/{pooling}/{method}/history.parquet",
    log:
        "<logs>/selection/{task}/{candidate}-{pooling}-{method}.log",
    benchmark:
        "<benchmarks>/selection/{task}/{candidate}-{pooling}-{method}.tsv"
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=720,
    params:
        options=candidate_training("finetune run"),
        size=SELECTION["sizes"],
        seeds=few_seeds(SELECTION["sizes"]),
        state=f"{RESULTS}/state/selection/{{task}}/{{candidate}}/{{pooling}}/{{method}}",


rule selection_gather:
    """Put a task's candidates into one table of scores and one of learning curves."""
    input:
        [
            f"<results>/selection/{{task}}/{cell.file}"
            for cell in cells(CANDIDATES, SELECTION["poolings"], SELECTION["methods"])
        ],
        [f"<results>/selection/{{task}}/{score_file(name)}" for name in CANDIDATES],
    output:
        scores="<results>/selection/{task}/scores.parquet",
        curves="<results>/selection/{task}/curves.parquet",
    log:
        "<logs>/selection/{task}.log",
    benchmark:
        "<benchmarks>/selection/{task}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        **of_command("selection gather"),
        folder=lambda wildcards: f"{RESULTS}/selection/{wildcards.task}",
        models=list(CANDIDATES),
    shell:
        """
        python -m ntktune selection gather \
            --folder {params.folder:q} \
            --models {params.models:q} \
            --task {wildcards.task:q} \
            {params.options:q} \
            --out-scores {output.scores:q} \
            --out-curves {output.curves:q} \
            2>{log:q}
        """
