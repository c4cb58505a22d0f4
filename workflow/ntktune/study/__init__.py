"""The configuration of a study: schemas, checks, seeds, and names of what it makes."""
