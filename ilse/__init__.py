"""What the two halves of ILSE Cache share: the command line, parameters, errors and the tables' columns."""

__version__ = "0.1.0"
