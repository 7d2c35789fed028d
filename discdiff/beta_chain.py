r"""Numbers in (0, 1) that are multiplied by Beta variables: Beta diffusion.

With :math:`1 > \alpha_1 > \dots > \alpha_T > 0` and a concentration :math:`\eta`, given the data

.. math::
    z_t \mid x_0 \sim \mathrm{Beta}(\eta \alpha_t x_0,\; \eta (1 - \alpha_t x_0)), \qquad
    z_t = z_s\, \pi, \quad \pi \sim \mathrm{Beta}(\eta \alpha_t x_0,\;
        \eta (\alpha_s - \alpha_t) x_0),

and backward, by the split of a Dirichlet vector,

.. math::
    z_s = z_t + (1 - z_t)\, p, \qquad p \sim \mathrm{Beta}(\eta (\alpha_s - \alpha_t) x_0,\;
        \eta (1 - \alpha_s x_0)).

References:
    | Beta Diffusion (Zhou et al., 2023)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from .chains import Stepped, every
from .given_data import GivenData
from .params import as_numbers
from .process import Chain
from .validation import require, shown


class BetaSteps(GivenData):
    """Beta diffusion as a term in the number of the step; see `BetaChain`."""

    kept: Tensor

    def __init__(
        self, kept: Tensor | list[float], concentration: float, center: float = 0.5
    ) -> None:
        super().__init__()
        values = as_numbers(kept, "kept").detach().clone()
        inside = values.dim() == 1 and len(values) > 0
        inside = inside and bool(
            (
                (values > 0)
                & (values < 1)
                & (values.diff(prepend=torch.ones(1, dtype=values.dtype)) < 0)
            ).all()
        )
        require(inside, f"kept must fall within (0, 1), one per step; they are {shown(values, 8)}")
        require(concentration > 0, f"concentration must be positive; it is {concentration}")
        require(0 < center < 1, f"center must lie in (0, 1); it is {center}")
        self.register_buffer("kept", values)
        self.concentration, self.center = float(concentration), float(center)

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.kept)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.unit_interval

    def extra_repr(self) -> str:
        return f"{shown(self.kept, 3)}, concentration {self.concentration:g}"


class BetaChain(Chain):
    r"""Beta diffusion, a chain on the unit interval that is Markov given the data.

    It has marginals and bridges; `transition` is `Unsolved`, as the factors depend on the data.
    Heads say :math:`\hat x_0` in (0, 1), as `heads.Mean` of a network that ends in a sigmoid does.
    Small numbers matter: :math:`z_T` is of the order of :math:`e^{-1 / (\eta \alpha_T x_0)}`, and
    states that are rounded to zero keep no trace of that, so take float64 there.

    Arguments:
        kept: :math:`\alpha_1 \dots \alpha_T`, falling in (0, 1).
        concentration: :math:`\eta > 0`: the larger, the less noise.
        center: The datum from whose law at the last step runs start, such as the mean of the data.

    Raises:
        ValueError: If a number lies outside.

    References:
        | Beta Diffusion (Zhou et al., 2023)

    Example:
        >>> chain = BetaChain([0.9, 0.5, 0.1], concentration=10.0)
        >>> chain.marginal(torch.full((1, 1), 0.8), 2).mean  # 0.5 · 0.8
        tensor([[0.4000]])
        >>> chain.bridge(torch.full((1, 1), 0.8), torch.full((1, 1), 0.3), 1, 2).mean
        tensor([[0.6733]])
    """

    def __init__(
        self, kept: Tensor | list[float], concentration: float, center: float = 0.5
    ) -> None:
        term = BetaSteps(kept, concentration, center)
        super().__init__(Stepped(term), every(term.count))

    @property
    def steps(self) -> BetaSteps:
        """The chain as a term in the number of the step."""
        return self.process.process  # type: ignore[union-attr,return-value]

    def __repr__(self) -> str:
        return f"BetaChain({self.steps.extra_repr()})"
