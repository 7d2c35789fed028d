r"""Sums of terms at example states, and the laws that each is held to in its own time.

`Entries` looks at laws whose entries can be enumerated: probabilities are summed over the points
of a lattice, densities over a grid on the line. `Vectors` looks at linear diffusions of vectors,
with auxiliaries or without, whose densities are exponentials of quadratic forms: mean and
covariance are read from the density itself, by its derivatives, and expectations are sums over
the nodes of a Gauss–Hermite rule, exact for the polynomials that occur. No law consults the
engine's own moments.
"""

from __future__ import annotations

from torch import Tensor

from ..engines.matrix import MatrixGaussian
from ..process import Leaf
from .entries import Entries
from .site import Site
from .vectors import Vectors


def site(leaf: Leaf, x: Tensor, when: tuple[float, float] = (0.3, 0.7)) -> Site:
    """A leaf at example data, (B, *event), that is looked at at two times."""
    vectors = isinstance(leaf.core.engine, MatrixGaussian)
    return Vectors(leaf, x, when) if vectors else Entries(leaf, x, when)
