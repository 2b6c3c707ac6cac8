"""The remote protocol of gdb: docs/gdb.md."""
