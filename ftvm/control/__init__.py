"""How a running machine is watched and managed from outside: docs/control-protocol.md says what goes over the wire."""
