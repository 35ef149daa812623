"""The answers of heads to the test examples, one by one: where two differ, sure errors, scores by length of text."""
