"""Runs workflow/Snakefile, where the workflow catalog and snakedeploy expect the workflow."""


include: "workflow/Snakefile"


# Snakemake takes no default target from an included file: without this line, `snakemake` runs nothing.
workflow.default_target = "all"
