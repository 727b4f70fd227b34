"""The command line: words and screens, no decisions.

Each subcommand is a module of this package with a click command named ``command``; ``main`` lists them and imports the one
that is asked for. Data goes to stdout, words to stderr. Heavy imports (numpy, pyarrow, the engine) stand inside functions.
"""
