"""One file for each command of the REPL; see ftvm/debug/repl/__init__.py."""
