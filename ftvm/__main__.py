"""``python -m ftvm``: the same as the ``ftvm`` command."""

from ftvm.cli import main

main()
