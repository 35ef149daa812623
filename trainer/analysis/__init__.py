"""What layers contribute to trained heads, on the validation split: one module per question.

    leave_one_out   what a head loses without a layer
    attribution     how much each layer moves a head's answer
    by_input        the weights that a head gives the layers of each input
    cka             how alike two layers are
    classes         which layer tells which label

Each says in one line, `CAVEAT`, what its figures do not mean. `profiles` makes their tables; `trainer.stages.analyse`
is the stage that fills them.
"""
