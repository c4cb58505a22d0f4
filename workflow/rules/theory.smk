"""Chapter theory: when gradient descent should stop, read from the kernel.

Needs: kernel/<task>/gram.safetensors.
Makes: theory/<task>/stopping.parquet, per draw the noise, the radius of the shift, the critical
    radius (SR26 eqs 10-11) and the stopping time of kernel gradient descent.
"""


rule stopping:
    """Compute critical radius and stopping time of every draw's kernel."""
    input:
        "<results>/kernel/{task}/gram.safetensors",
    output:
        "<results>/theory/{task}/stopping.parquet",
    log:
        "<logs>/theory/{task}.log",
    benchmark:
        "<benchmarks>/theory/{task}.tsv"
    conda:
        "../../envs/model.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=code_digest("ntktune.cli.theory:stopping"),
        step_size_factor=lookup(dpath="theory/step_size_factor", within=STUDY),
    shell:
        """
        python -m ntktune theory stopping \
            --gram {input:q} \
            --step-size-factor {params.step_size_factor:q} \
            --out {output:q} \
            2>{log:q}
        """
