"""Compares two caches of the same texts, and a trained head's answers from both: one module per idea.

    matching    the texts of both, by their ids, and their rows side by side
    alikeness   CKA of two sets of rows, with its error
    neighbours  which texts are nearest to a text
    apart       one pass over both caches for all that is of rows
    answers     what a head answers from each
    gate        how its score changes, and whether that is shown to be within a tolerance
    table       the figures as rows of a table, and on the screen
    comparing   all of it: `ilse layers --compare`

`from trainer import drift` gives what is called, `trainer.library.drift`.
"""
