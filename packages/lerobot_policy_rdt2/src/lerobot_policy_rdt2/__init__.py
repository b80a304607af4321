"""RDT2 as a LeRobot policy. LeRobot imports this package by its name, and knows `--policy.type=rdt2` from then on."""

from .configuration_rdt2 import RDT2Config
from .modeling_rdt2 import RDT2Policy
from .processor_rdt2 import make_rdt2_pre_post_processors

__all__ = ["RDT2Config", "RDT2Policy", "make_rdt2_pre_post_processors"]
