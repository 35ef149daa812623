"""Artifacts from the network and from archives, checked against their checksums."""
