"""Chapter spectrum: eigenvalues of K/n and their power-law decay.

Needs: kernel/<task>/draws.safetensors.
Makes: spectrum/<task>/eigenvalues.parquet, decay.parquet (log lambda_k = c - a log k per draw and
    range, SR26 eqs 29-32) and summary.json (a over draws, the predicted rate n^(-a/(a+1))).
"""


rule spectrum_fit:
    """Fit the decay exponent of every draw's eigenvalues."""
    input:
        "<results>/kernel/{task}/draws.safetensors",
    output:
        eigenvalues="<results>/spectrum/{task}/eigenvalues.parquet",
        fits="<results>/spectrum/{task}/decay.parquet",
        summary="<results>/spectrum/{task}/summary.json",
    log:
        "<logs>/spectrum/{task}.log",
    benchmark:
        "<benchmarks>/spectrum/{task}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        code=digest_of("ntktune.cli.spectrum:fit"),
    shell:
        """
        python -m ntktune spectrum fit \
            --gram {input:q} \
            --out-eigenvalues {output.eigenvalues:q} \
            --out-fits {output.fits:q} \
            --out-summary {output.summary:q} \
            2>{log:q}
        """
