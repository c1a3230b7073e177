"""The command line: one module per command with ``add_parser(subparsers)`` and ``run(args)``."""
