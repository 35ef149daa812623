"""Work on the shards of a cache: computing them, reusing rows, keeping unfinished ones, one run at a time."""
