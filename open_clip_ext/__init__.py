"""A plugin that adds hard-negative fine-tuning losses to open_clip's trainer.

The way of a batch, from the data file to the weights:

    _startup, __main__   the plugin waits in an interpreter for upstream's trainer
    host/                wraps the trainer's functions; the only part that names it
      loaders/           a caption leaves the data file together with its companion texts
    data                 the collate function: texts [B, 1+K, L]
    model/               one forward pass: features of captions [B, D] and of companions [B, K, D]
    teacher              the moving average of the model that some losses compare with
    losses/              gather, score, and return weighted terms
    training/            what a run was asked for, and what it keeps between steps

Beside it stand the command line (`cli`) and its commands: `negatives/` makes companion texts, and the
store that `host/loaders` reads; `evaluation/` measures gain and cost; `cluster/` checks nodes before a
run; `demo/` shows all of it. `registry` and `plugins` find what other packages add; `errors`, `files`,
`csv_files`, `texts`, `tables` and `precision` are small helpers that everything may use.

Every interpreter of the environment imports this module at start-up, so it must not import anything.
"""

__version__ = "0.2.0"
