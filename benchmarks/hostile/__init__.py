"""Crafted artifacts, each opened by what a user would open it with: whatever is not refused is counted."""
