"""Understanding a machine: symbols, places in the guest's code, the REPL."""
