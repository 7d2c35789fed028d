r"""Generator terms: drifts, diffusions and jumps.

A term is one summand of a generator,

.. math::
    (L f)(x) = v(x) \cdot \nabla f(x), \qquad
    (L f)(x) = \tfrac12 \operatorname{tr}\big(B B^\top \nabla^2 f(x)\big), \qquad
    (L f)(x) = \sum_y r(x, y) \big(f(y) - f(x)\big),

for a drift, a diffusion and a jump. A term holds numbers; engines hold algorithms.
"""

from .actions import apply_linear, as_matrices, spread
from .categories import (
    FiniteJump,
    RateMatrix,
    Replace,
    one_hot,
    require_rate_matrix,
    require_simplex,
    with_diagonal,
)
from .counts import Birth, CountJump, Death, Ehrenfest, Immigration, Reaction
from .fields import Field, StateNoise
from .kinds import (
    Diffusion,
    Drift,
    Function,
    Jump,
    LinearDrift,
    Number,
    Numbers,
    Retimed,
    Term,
    WhiteNoise,
)
from .langevin import Langevin, Recipe, Restoring, Stirring, stationary
from .linear import Linear, Noise
from .numbers import require_function, require_no_parameter, require_nonnegative, zero

__all__ = [
    "Birth",
    "CountJump",
    "Death",
    "Diffusion",
    "Drift",
    "Ehrenfest",
    "Field",
    "FiniteJump",
    "Function",
    "Immigration",
    "Jump",
    "Langevin",
    "Linear",
    "LinearDrift",
    "Noise",
    "Number",
    "Numbers",
    "RateMatrix",
    "Reaction",
    "Recipe",
    "Replace",
    "Restoring",
    "Retimed",
    "StateNoise",
    "Stirring",
    "Term",
    "WhiteNoise",
    "apply_linear",
    "as_matrices",
    "one_hot",
    "require_function",
    "require_no_parameter",
    "require_nonnegative",
    "require_rate_matrix",
    "require_simplex",
    "spread",
    "stationary",
    "with_diagonal",
    "zero",
]
