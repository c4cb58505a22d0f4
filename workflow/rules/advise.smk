"""Chapter advise: what a pilot, some labelled texts, predicts of larger samples of them.

Needs: kernel/<task>/draws.safetensors.
Makes: advise/<task>/benchmark.parquet, for pilots drawn from the kernel's texts the error and the score
    that each predicts at larger n, beside other ways to predict and the error that the kernel has there;
    exponents.parquet, decay a and source r of each draw, and the rate n^(-2ar/(1+2ar)) (Cui et al. 2021).
"""


rule advise_benchmark:
    """Predict from pilots of a task's texts what larger samples of them reach."""
    input:
        "<results>/kernel/{task}/draws.safetensors",
    output:
        benchmark="<results>/advise/{task}/benchmark.parquet",
        exponents="<results>/advise/{task}/exponents.parquet",
    log:
        "<logs>/advise/{task}.log",
    benchmark:
        "<benchmarks>/advise/{task}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        **of_command("advise benchmark"),
    shell:
        """
        python -m ntktune advise benchmark \
            --gram {input:q} \
            {params.options:q} \
            --out {output.benchmark:q} \
            --out-exponents {output.exponents:q} \
            2>{log:q}
        """
