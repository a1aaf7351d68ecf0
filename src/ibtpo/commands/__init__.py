"""The verbs of the command line, one module each.

A module's docstring is its help text. `add_arguments(parser)` declares the options and imports nothing heavy, so that
help is quick; `run(args)` does the work with what it imports itself, and returns the exit code: 0, or 1 where a check
failed. Errors are raised, and `ibtpo.cli` prints them. `train` alone is different: its options are those of a recipe,
so `ibtpo.cli` reads them.

What the verbs share lies beside them: `options` declares groups of options, `inputs` opens the problems, the verifier
and the model that they name, `output` shows progress and guards files. Results go to stdout, progress and errors to
stderr.
"""
