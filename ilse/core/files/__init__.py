"""Files and folders: written whole or not at all, held by one process at a time, read without trust."""
