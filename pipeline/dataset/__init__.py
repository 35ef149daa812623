"""A data set's files, whatever their format, as texts, targets and splits."""
