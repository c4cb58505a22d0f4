"""Figures, tables and verdicts: tables in, matplotlib figures and tables out.

One module per figure and table. Nothing here imports torch or another chapter, so
that redrawing a figure depends on its numbers and on nothing else.
"""
