"""Chapter ``data``: models, tasks, tokens and samples.

The one chapter that reaches outside: the package index, the hub, files of the user. It checks what
comes in (checksums, columns, labels, duplicates), so that later chapters can trust their inputs.
"""
