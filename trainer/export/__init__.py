"""A trained head as a file for other runtimes: a `torch.export` program (.pt2) or ONNX, without the language model.

    export_head("models/cayley/seed-0", "exports/cayley", to="onnx")
    load_exported("exports/cayley")(rows)                # rows [examples, layers, dim] -> {"probabilities": …}

A head that reads tokens takes them padded, with a mask, as the model gives them; the basis that it reads them in, where
it has one, is part of the program:

    load_exported("exports/tokens")(tokens, mask)        # [examples, tokens, layers, dim], [examples, tokens]

The folder holds `head.pt2` or `head.onnx` and `head.json`, which says what the rows are and what the outputs mean.
The input treatment is part of the program; the numbers of examples and of tokens are free. `program` says what is
exported, `formats` writes and opens each kind of file, `checked` looks at a file before anything of it runs.
"""

from trainer.export.folder import DESCRIPTION, ExportedHead, export_head, load_exported
from trainer.export.formats import Target

__all__ = ["DESCRIPTION", "ExportedHead", "Target", "export_head", "load_exported"]
