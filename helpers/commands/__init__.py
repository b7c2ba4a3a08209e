"""What ``python -m helpers COMMAND`` runs: one file a command, with its arguments and what it prints.

Each has ``add_arguments(parser)`` and ``main(args)``, which returns the exit code. Arguments and their errors need no
torch: a command imports what it calls when it runs.
"""

DTYPES = ("float32", "bfloat16", "float16")  # of weights, for arguments
