"""The tables of an evaluation: leaderboard, costs, significance."""
