"""ftvm: a lockstep virtual machine monitor. Two CPUs run the same guest and are compared as they go."""

__version__ = "0.1.0"
