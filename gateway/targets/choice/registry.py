"""The policies that choose a replica, by name: a new one is a file and a line here."""

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from gateway.targets.choice.base import ReplicaChoice
from gateway.targets.choice.least_active import LeastActive
from gateway.targets.choice.power_of_two import PowerOfTwo
from gateway.targets.choice.prefix_aware import PrefixAware
from gateway.targets.choice.round_robin import RoundRobin

CHOICES: Mapping[str, Callable[[Random], ReplicaChoice]] = MappingProxyType(
    {
        "prefix": PrefixAware,
        "least_active": LeastActive,
        "power_of_two": PowerOfTwo,
        "round_robin": RoundRobin,
    }
)
"""Name -> constructor; an instance is made for each model."""
