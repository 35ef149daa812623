"""Keeps Python processes that we start from importing modules of the working folder.

`python -c` and `python -m` put the working folder first on the path, and so do the processes that `multiprocessing`
starts, until they have taken over their parent's path. A `socket.py` or `pip.py` that lies there would be run.
"""

from __future__ import annotations

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""For the environment of every Python that is started; as `python -P`, and for its children too."""
