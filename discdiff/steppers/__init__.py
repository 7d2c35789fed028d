r"""Steppers: draws from bridges, Euler steps, leaps, the probability flow and its noisy kin.

See `stepper` for what a stepper is, `exponential` and `splitting` for those of linear diffusions.
"""

from ..stepper import Stepper
from .analytic import Analytic
from .ancestral import Ancestral, Nearest, Rounding, Stochastic
from .cached import Cached
from .corrector import Corrector
from .euler import Euler, TauLeaping
from .exponential import Exponential
from .families import Renewed, Shift, Tilt
from .first_hitting import FirstHitting
from .heun import Churn, Heun
from .splitting import Splitting
from .thinning import Gillespie, Uniformization
from .trapezoidal import Trapezoidal

__all__ = [
    "Analytic",
    "Ancestral",
    "Cached",
    "Churn",
    "Corrector",
    "Euler",
    "Exponential",
    "FirstHitting",
    "Gillespie",
    "Heun",
    "Nearest",
    "Renewed",
    "Rounding",
    "Shift",
    "Splitting",
    "Stepper",
    "Stochastic",
    "TauLeaping",
    "Tilt",
    "Trapezoidal",
    "Uniformization",
]
