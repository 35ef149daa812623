"""The report's charts, by subject: Vega-Lite specifications, each with its alternative in words."""
