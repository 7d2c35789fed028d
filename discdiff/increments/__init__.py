r"""Increments: laws of mean 0 and variance 1 that a random walk adds up.

An increment :math:`\xi` is more than its density. A walk asks for

.. math::
    \varphi(u) = \mathbb{E} e^{i u \xi}, \qquad
    \log \varphi(u) = \sum_{m \ge 2} \kappa_m \frac{(iu)^m}{m!}, \qquad
    K(\eta) = \log \mathbb{E} e^{\eta \xi}, \qquad
    I = \mathbb{E} \left[ \Bigl( \frac{f'}{f}(\xi) \Bigr)^2 \right],

its sums (products of :math:`\varphi`), its tilts :math:`f(\xi) e^{\eta \xi - K(\eta)}`, which are
to first order the reverse steps of a walk, and the three ways to a marginal of one shape at all
times: a Gaussian mixing law, :math:`\xi = \sqrt{A} G`; a Lévy process with :math:`L_1 = \xi`; and
self-decomposability, :math:`\xi = \rho \xi' + \varepsilon_\rho` for every :math:`\rho` in (0, 1).

`increment` finds the increment of a Pyro or torch distribution by its type; `standardises`
registers one. Each law has a file of its own, with the laws of its sums, tilts and innovations
that torch and Pyro lack; a law with atoms says against which measure its ``log_prob`` is a
density.
"""

from .angle import Angle
from .base import Increment
from .bounded import Tent, Triangular, TruncatedExponential, Uniform
from .compound import Compound, CompoundPoisson, TiltedCompound
from .counts import Poisson, ShiftedPoisson, ThinnedCount
from .elliptical import Certain, Elliptical, InverseGamma, InverseGaussian, Mixing
from .failures import Failures, SharedCount, ShiftedFailures
from .finite import Finite
from .gamma import Gamma, GammaInnovation, GammaShare, ShiftedGamma
from .gumbel import Gumbel, GumbelInnovation, NegativeLogGamma
from .laplace import Laplace, SpikedLaplace
from .laplace_process import LaplaceShare, VarianceGamma
from .lattice import Coin, Lattice, Rademacher, ThreePoint, Trinomial
from .logistic import KolmogorovSquare, Logistic, LogisticInnovation, LogitBeta
from .mirrored import Mirror, Mirrored
from .mixture import GaussianMixture
from .normal import Normal
from .numeric import Numeric, Standardised
from .pareto import generalised_pareto
from .power import GeneralisedNormal, Power, TiltedGeneralisedNormal
from .registry import increment, standardises
from .stable import PositiveStable, Stable, SymmetricStable
from .student import Student, StudentT

__all__ = [
    "Angle",
    "Certain",
    "Coin",
    "Compound",
    "CompoundPoisson",
    "Elliptical",
    "Failures",
    "Finite",
    "Gamma",
    "GammaInnovation",
    "GammaShare",
    "GaussianMixture",
    "GeneralisedNormal",
    "Gumbel",
    "GumbelInnovation",
    "Increment",
    "InverseGamma",
    "InverseGaussian",
    "KolmogorovSquare",
    "Laplace",
    "LaplaceShare",
    "Lattice",
    "Logistic",
    "LogisticInnovation",
    "LogitBeta",
    "Mirror",
    "Mirrored",
    "Mixing",
    "NegativeLogGamma",
    "Normal",
    "Numeric",
    "Poisson",
    "PositiveStable",
    "Power",
    "Rademacher",
    "SharedCount",
    "ShiftedFailures",
    "ShiftedGamma",
    "ShiftedPoisson",
    "SpikedLaplace",
    "Stable",
    "Standardised",
    "Student",
    "StudentT",
    "SymmetricStable",
    "Tent",
    "ThinnedCount",
    "ThreePoint",
    "TiltedCompound",
    "TiltedGeneralisedNormal",
    "Triangular",
    "Trinomial",
    "TruncatedExponential",
    "Uniform",
    "generalised_pareto",
    "VarianceGamma",
    "increment",
    "standardises",
]
