"""The command line: `ilse COMMAND`, one subcommand per stage."""

# Each adds its commands to the group, in this order.
from ilse.cli import cache_commands as cache_commands  # isort: skip
from ilse.cli import training_commands as training_commands  # isort: skip
from ilse.cli import prediction_commands as prediction_commands  # isort: skip
from ilse.cli.group import main

__all__ = ["main"]
