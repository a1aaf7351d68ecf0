"""One module a verb: `add_arguments(parser)` without heavy imports, `run(args) -> exit code`.

What the verbs share lies beside them: `options` declares groups of options, `inputs` opens the problems, verifier and
model they name, `output` writes. Results go to stdout, progress and errors to stderr.
"""
