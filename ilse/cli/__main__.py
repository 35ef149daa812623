"""`python -m ilse.cli` is `ilse`."""

from ilse.cli import main

main(prog_name="ilse")
