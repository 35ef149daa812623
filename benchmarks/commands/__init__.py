"""The commands campaign: every command of the command line, disturbed in every way that its surroundings can."""
