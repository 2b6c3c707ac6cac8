"""How images get into RAM: ``load`` makes a BootPlan of an image file. One file per boot protocol."""

from ftvm.boot.loader import KINDS, load
from ftvm.boot.plan import BootPlan, Segment

__all__ = ["KINDS", "BootPlan", "Segment", "load"]
