"""Chapter kernel: the empirical Neural Tangent Kernel of each task.

Needs: data/model, and per task data/<task>/tokens.safetensors, draws.json and subsets.json.
Makes: kernel/<task>/gram.safetensors, for every draw the Gram matrix
    G(x, x') = <df(x)/dtheta, df(x')/dtheta> over all parameters (SR26 eq 5, without its 1/n), its parts by
    parameter group, the network's outputs and the labels; learning.safetensors, the same of training
    subsets and test rows. Kernels with more than kernel.tile_rows rows are computed as tiles,
    tiles/<kernel>-<bands>/<band>-<band>.safetensors, one job each, then assembled.
"""


# What is computed in tiles is gathered.
ruleorder: gathered_kernel > kernel_draws
ruleorder: gathered_kernel > learning_kernel


rule kernel_draws:
    """Compute the Gram matrices of all of a task's draws, in one model load."""
    input:
        model="<results>/data/model",
        tokens="<results>/data/{task}/tokens.safetensors",
        samples="<results>/data/{task}/draws.json",
    output:
        "<results>/kernel/{task}/gram.safetensors",
    log:
        "<logs>/kernel/{task}.log",
    benchmark:
        "<benchmarks>/kernel/{task}.tsv"
    # a long job: no core must wait for it at the end
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
        tile=[],
    shell:
        """
        python -m ntktune kernel {params.verb:q} \
            --model {input.model:q} \
            --tokens {input.tokens:q} \
            {params.samples:q} {input.samples:q} \
            --task {wildcards.task:q} \
            {params.tile:q} \
            {params.options:q} \
            --out {output:q} \
            2>{log:q}
        """


use rule kernel_draws as learning_kernel with:
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


use rule learning_kernel as learning_kernel_tile with:
    """Compute one tile of a large kernel of training subsets and test rows."""
    output:
        "<results>/kernel/{task}/tiles/learning-{bands}/{row}-{column}.safetensors",
    log:
        "<logs>/kernel/{task}-learning-{row}-{column}-of-{bands}.log",
    benchmark:
        "<benchmarks>/kernel/{task}-learning-{row}-{column}-of-{bands}.tsv"
    params:
        tile=tile_words,


use rule kernel_draws as kernel_tile with:
    """Compute one tile of the large Gram matrices of a task's draws."""
    output:
        "<results>/kernel/{task}/tiles/gram-{bands}/{row}-{column}.safetensors",
    log:
        "<logs>/kernel/{task}-{row}-{column}-of-{bands}.log",
    benchmark:
        "<benchmarks>/kernel/{task}-{row}-{column}-of-{bands}.tsv"
    params:
        tile=tile_words,


rule gathered_kernel:
    """Put a large kernel's tiles together, and check that they belong together."""
    input:
        kernel_tiles,
    output:
        "<results>/kernel/{task}/{kernel}.safetensors",
    log:
        "<logs>/kernel/{task}-{kernel}-gathered.log",
    benchmark:
        "<benchmarks>/kernel/{task}-{kernel}-gathered.tsv"
    wildcard_constraints:
        kernel="|".join(KERNEL_BANDS) or "none",
    priority: 1
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=digest_of("ntktune.cli.kernel:gather"),
        folder=kernel_tile_folder,
    shell:
        """
        python -m ntktune kernel gather \
            --tiles {params.folder:q} \
            --out {output:q} \
            2>{log:q}
        """
