"""The faults campaign: the real commands, killed, starved, damaged and contradicted, and the bytes that come out."""
