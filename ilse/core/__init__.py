"""What every part builds on: errors, parameters, the tables' columns, the terminal. It imports none of the others."""
