"""Chapter ``data``: models, tasks, tokens and samples.

The one chapter that reaches outside: archives from the package index, models and
data sets from the hub, files of the user. What comes in is checked here (checksums,
columns, labels, duplicates), so that later chapters can trust their inputs.
"""
