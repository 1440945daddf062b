"""Studies: several methods, bases and seeds, trained, evaluated and compared from one file.

`settings` reads the file, `parts` says what is to be done, `local` and `slurm` do it, `results` and `page`
tell what came out.
"""
