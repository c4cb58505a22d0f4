"""Chapter kernel: the empirical Neural Tangent Kernel of each task.

Needs: data/model, and per task data/<task>/tokens.safetensors, draws.json and subsets.json.
Makes: kernel/<task>/draws.safetensors, for every draw the Gram matrix
    G(x, x') = <df(x)/dtheta, df(x')/dtheta> over all parameters (SR26 eq 5, without its 1/n), its parts by
    parameter group, the network's outputs and the labels; learning.safetensors, the same between each
    training subset with the test rows and the training subset. Kernels with more than kernel.shard_rows
    rows are computed as shards, shards/<kernel>-<bands>/<band>-<band>.safetensors, one job each, and put
    together by kernel_gather.
"""


# Two rules can make a kernel's file. Where it is split into shards, kernel_gather does.
ruleorder: kernel_gather > kernel_draws > kernel_learning


rule kernel_draws:
    """Compute the kernels of all of a task's draws, in one model load."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        samples="<results>/data/{task}/draws.json",
    output:
        "<results>/kernel/{task}/draws.safetensors",
    log:
        "<logs>/kernel/{task}.log",
    benchmark:
        "<benchmarks>/kernel/{task}.tsv"
    # long jobs first, or other cores stand idle at the end
    priority: 1
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=4000,
        runtime=120,
    params:
        **of_command("kernel draws"),
        verb="draws",
        samples="--draws",
        shard=[],
    shell:
        """
        python -m ntktune kernel {params.verb:q} \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            {params.samples:q} {input.samples:q} \
            --task {wildcards.task:q} \
            {params.shard:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


use rule kernel_draws as kernel_learning with:
    """Compute the kernels of training subsets and test rows, for predicted learning curves."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        samples="<results>/data/{task}/subsets.json",
    output:
        "<results>/kernel/{task}/learning.safetensors",
    log:
        "<logs>/kernel/{task}-learning.log",
    benchmark:
        "<benchmarks>/kernel/{task}-learning.tsv"
    resources:
        gpu=GPU,
        mem_mb=6000,
        runtime=240,
    params:
        **of_command("kernel learning", seeds=LEARNING_SEEDS),
        verb="learning",
        samples="--subsets",


use rule kernel_learning as kernel_learning_shard with:
    """Compute one shard of a large kernel of training subsets and test rows."""
    output:
        "<results>/kernel/{task}/shards/learning-{bands}/{row}-{column}.safetensors",
    log:
        "<logs>/kernel/{task}-learning-{row}-{column}-of-{bands}.log",
    benchmark:
        "<benchmarks>/kernel/{task}-learning-{row}-{column}-of-{bands}.tsv"
    params:
        shard=["--shard", "{row}", "{column}", "{bands}"],


use rule kernel_draws as kernel_draws_shard with:
    """Compute one shard of the large kernels of a task's draws."""
    output:
        "<results>/kernel/{task}/shards/draws-{bands}/{row}-{column}.safetensors",
    log:
        "<logs>/kernel/{task}-{row}-{column}-of-{bands}.log",
    benchmark:
        "<benchmarks>/kernel/{task}-{row}-{column}-of-{bands}.tsv"
    params:
        shard=["--shard", "{row}", "{column}", "{bands}"],


rule kernel_gather:
    """Put a large kernel's shards together, and check that they belong together."""
    input:
        kernel_shards,
    output:
        "<results>/kernel/{task}/{kernel}.safetensors",
    log:
        "<logs>/kernel/{task}-{kernel}-gathered.log",
    benchmark:
        "<benchmarks>/kernel/{task}-{kernel}-gathered.tsv"
    wildcard_constraints:
        kernel="|".join(KERNEL_BANDS) or "none",  # no kernel is split: match no file
    priority: 1
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=digest_of("ntktune.cli.kernel:gather"),
        folder=shard_folder,
    shell:
        """
        python -m ntktune kernel gather \
            --shards {params.folder:q} \
            --out {output:q} \
            2>{log:q}
        """
