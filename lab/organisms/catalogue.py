"""Every organism there is a definition of, by name."""

from lab.organisms.suite import SUITE
from lab.organisms.zero import ZERO

ORGANISMS = {organism.name: organism for organism in (*ZERO, *SUITE)}
