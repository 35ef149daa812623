"""Measures each layer's representation from a cache alone: one module per idea.

    spectra     entropy, effective ranks and anisotropy of eigenvalues
    moments     the Gram matrix of a layer's rows, in one pass
    views       how far texts agree with noisier versions of themselves
    geometry    lengths, angles and massive values of rows
    dimension   how many directions rows vary in around each of them (TwoNN)
    separation  how far labels lie apart
    probes      what a linear model makes of each layer
    tokens      entropy, curvature and anisotropy of a text's tokens
    advice      which layers to keep
    drawing     the sample of texts for what is no sum over all of them
    labels      the label of each text, of training and validation examples
    table       the figures as rows of a table, and on the screen
    measuring   one pass over the cache's rows for all that is of rows
    survey      all of it

`trainer.layers` is the command; what each figure means stands in docs/guides/layers.md.
"""
