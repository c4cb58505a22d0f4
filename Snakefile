"""The whole study: from a pretrained language model and labelled text to every figure.

`snakemake --cores` makes everything that the configuration asks for; the named targets
of workflow/rules/collect.smk make parts of it. config/README.md explains the
configuration, README.md the rest.
"""

import gc

from snakemake.utils import min_version

min_version("9.10")

# Nothing of what Snakemake has imported by now is garbage: not to look through it again takes a
# seventh off each of its starts, of which a job on a cluster has two.
gc.freeze()

# A configuration given on the command line stands alone; it is not merged into this one.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


wildcard_constraints:
    task="|".join(STUDY["task_definitions"]),
    size=r"\d+",
    row=r"\d+",
    column=r"\d+",
    bands=r"\d+",


report: "workflow/report/workflow.rst"


localrules:
    all,


rule all:
    default_target: True
    input:
        collect("<results>/figures/{figure}.png", figure=FIGURES),
        collect("<results>/figures/{table}.csv", table=TABLES),


include: "workflow/rules/data.smk"
include: "workflow/rules/kernel.smk"
include: "workflow/rules/spectrum.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/taskvectors.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/collect.smk"


onstart:
    begin_run()


onsuccess:
    end_run()
