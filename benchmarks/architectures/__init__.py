"""Tiny models of many architectures, each text's rows against transformers' own hidden states of that text alone."""
