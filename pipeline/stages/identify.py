"""The identify stage: which model section 'extract' names, in a file small enough for git.

DVC removes what a stage made before it makes it again. Where the model is missing, that would take a pulled cache and
bring nothing; so this stage goes first, changes whenever the extraction does, and fails where that could not run.
"""

from __future__ import annotations

from pipeline.config import ExtractParams
from pipeline.model.identity import model_identity
from pipeline.model.origin import find_source


def identify(params: ExtractParams) -> dict[str, str]:
    """The model's name and the checksum of its files, or its commit on the Hub.

    Raises `UserError` for a model that is not there, or that `extract` would refuse to open.
    """
    find_source(params.model)
    return {"model": params.model.name} | model_identity(params.model)
