"""``ftvm repl``: a machine at a prompt. docs/repl.md is the guide for its users.

A command is one file in ``commands/``, found by being there. It has

- ``command``: a click command whose docstring ends in an example; its function gets the Desk (``click.pass_obj``);
- ``ALIASES``, if it has other names;
- ``REPEATS = True``, if an empty line on a terminal does it once more.
"""
