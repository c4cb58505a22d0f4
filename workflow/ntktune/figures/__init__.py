"""Figures, tables and verdicts: tables in, matplotlib figures and tables out.

One module per figure and table. Its caption, ``workflow/report/<name>.rst``, says in full what it
shows; :class:`ntktune.figures.catalogue.Entry` says what its parameters are. Nothing here imports
torch or another chapter, so that redrawing a figure depends on its numbers and on nothing else. A
figure raises UserError for a task, pair or merge that its tables lack, and for what is no colour or
colour map.
"""
