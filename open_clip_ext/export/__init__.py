"""`open-clip-ext export`: a checkpoint as a folder that `transformers` and open_clip both load.

`architectures` copies a model into a class of `transformers`, `processors` does the same for its tokenizer
and preprocessing, `compare` compares what was written with the original, `card` writes the model card, and
`run` is the command.
"""
