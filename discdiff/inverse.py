r"""Inverse problems: data that were seen through a matrix and noise.

With :math:`y = A x_0 + \sigma \eta`, :math:`\eta \sim \mathcal{N}(0, I)`, and the moments
:math:`\hat x_0 = \mathbb{E}[x_0 \mid x_t]`, :math:`C = \operatorname{Cov}[x_0 \mid x_t]`, what is
seen has, given :math:`x_t`, the law

.. math:: y \mid x_t \approx \mathcal{N}(A \hat x_0,\; S), \qquad S = A C A^\top + \sigma^2 I,

exactly where :math:`x_0 \mid x_t` is normal: for normal data under normal noise, that is linear
diffusions and walks of normal increments. For all other data and for walks of all other increments
this is an approximation, a projection on two moments, and so is every sample that is drawn by it.

* `Observed` guides heads of linear diffusions and walks: :math:`\hat x_0` becomes what is expected
  given :math:`x_t` and y, with C from the head (`Tweedie`) or from the data (`Covariance`).
* `Reweighted` guides `heads.Exact`, of finitely many data, under any process: exactly.
* `Likelihood` is :math:`\log p(y \mid x_t)` for categories and counts, to guide with by
  `guidance.Classifier`; C is taken to be diagonal.

References:
    | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
    | Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023)
    | Tweedie Moment Projected Diffusions for Inverse Problems (Boys et al., 2024)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from .engines.counts import PureDeath
from .engines.gaussian import Gaussian, Moments
from .engines.walk import WalkEngine
from .estimates import Atoms, LeaveOneOut, Mean, Posterior
from .guidance import Guided
from .heads import Head, require_head
from .params import as_numbers
from .process import Chain, Leaf, Process
from .solve import Unsolved
from .validation import require, values_are_checked

Guess = Callable[[Tensor], Tensor]


class Spread(ABC):
    r"""What is taken for :math:`C = \operatorname{Cov}[x_0 \mid x_t]`.

    Attributes:
        of_normal_noise: Whether this is known for normal noise only.
    """

    of_normal_noise: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, guess: Guess, x: Tensor, moments: Moments, matrix: Tensor
    ) -> tuple[Tensor, Tensor]:
        r""":math:`\hat x_0` of shape (B, *event) and :math:`A C` of shape (B, m, n).

        Arguments:
            guess: :math:`\hat x_0` as a function of the state.
            x: The state, (B, *event), n entries each.
            moments: Of :math:`x_t = \varphi x_0 + m + \sqrt v \varepsilon`, (B,) or (B, k); v may
                have the shape of x.
            matrix: A, (m, n).
        """


class Tweedie(Spread):
    r"""The covariance that the head itself implies, by m backward passes.

    .. math:: \operatorname{Cov}[x_0 \mid x_t] = \frac{v}{\varphi}\,
              \frac{\partial \hat x_0}{\partial x_t}

    This is exact for an exact head and normal noise. The guidance with it is exact for normal
    data, for others a projection on two moments. Of other noise the right side is

    .. math:: -\frac{v}{\varphi} \operatorname{Cov}\Big[x_0,\; \varphi^{-1} \nabla_{x_0}
              \log p(x_t \mid x_0) \,\Big|\, x_t \Big],

    and only the logarithm of a normal density has a slope that is linear in :math:`x_0`. So it
    does not say the covariance, and walks with such noise refuse this.

    Raises:
        ValueError: At :math:`\Lambda = \infty`, where :math:`x_t` says nothing of the data.

    Example:
        >>> moments = Moments(*(torch.tensor([v]).double() for v in (0.5, 0.0, 0.75)))
        >>> x = torch.zeros(1, 2)
        >>> Tweedie()(lambda x: x / 3, x, moments, torch.eye(2)[:1])
        (tensor([[0., 0.]]), tensor([[[0.5000, 0.0000]]]))
    """

    of_normal_noise = True

    def __call__(
        self, guess: Guess, x: Tensor, moments: Moments, matrix: Tensor
    ) -> tuple[Tensor, Tensor]:
        if values_are_checked(x):
            leaves = bool((moments.phi != 0).all())
            require(leaves, "Tweedie knows no spread at Λ = ∞: start below 1, or use Covariance")
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            mean = guess(at)
            rows = [_pulled(mean, at, row) for row in matrix]
        ratio = _on(moments.variance, x) / _on(moments.phi, x)
        return mean.detach(), torch.stack([(row * ratio).flatten(1) for row in rows], 1)


def _pulled(mean: Tensor, x: Tensor, row: Tensor) -> Tensor:
    r"""A row of A times :math:`\partial \hat x_0 / \partial x`, as the exact one is symmetric."""
    cotangent = row.to(mean).reshape(mean.shape[1:]).expand(mean.shape)
    (found,) = torch.autograd.grad(mean, x, cotangent, retain_graph=True)
    return found


class Covariance(Spread):
    r"""What normal data of a known covariance :math:`C_0` would have, without backward passes.

    .. math:: C = \big(C_0^{-1} + \tfrac{\varphi^2}{v} I\big)^{-1}

    Exact for normal data under normal noise. For other data it is an approximation, cheaper and
    cruder than `Tweedie`. For other noise it is one as well: that of walks is taken as normal, of
    its own variance. So it becomes after many small steps of a `Walk`; the noise of `LevyWalk` and
    `MarginalWalk` keeps its shape, however many the steps, and with it this its error. With
    :math:`C_0 = I` and a score in place of :math:`\hat x_0` it is what ΠGDM takes.

    Arguments:
        covariance: :math:`C_0` of the flattened data, symmetric of shape (n, n), or variances
            (n,).

    Raises:
        ValueError: If it is no covariance.

    Example:
        >>> moments = Moments(*(torch.tensor([v]).double() for v in (0.5, 0.0, 0.75)))
        >>> spread = Covariance(torch.tensor([1.0, 3.0]))
        >>> spread(lambda x: x, torch.zeros(1, 2), moments, torch.eye(2))[1]
        tensor([[[0.7500, 0.0000],
                 [0.0000, 1.5000]]])
    """

    def __init__(self, covariance: Tensor) -> None:
        table = as_numbers(covariance, "covariance")
        table = table.diag() if table.dim() == 1 else table
        square = table.dim() == 2 and table.shape[0] == table.shape[1]
        require(square, f"covariance must be square; its shape is {tuple(table.shape)}")
        require(bool(torch.allclose(table, table.mT)), "covariance must be symmetric")
        self.values, self.vectors = torch.linalg.eigh(table)
        least = float(self.values.min())
        require(least > -1e-9, f"covariance must have no negative eigenvalue; one is {least:.3g}")

    def __call__(
        self, guess: Guess, x: Tensor, moments: Moments, matrix: Tensor
    ) -> tuple[Tensor, Tensor]:
        if moments.variance.dim() > 1:
            raise Unsolved("Covariance is known for one number as drift and noise: use Tweedie")
        own, vectors = self.values.to(x.device), self.vectors.to(x.device)
        phi, variance = moments.phi.unsqueeze(1), moments.variance.unsqueeze(1)
        left = own * variance / (phi**2 * own + variance)
        seen = torch.einsum("mi,bi,ni->bmn", matrix.to(own) @ vectors, left, vectors)
        return guess(x), seen.to(x.dtype)


class Observed(Guided):
    r"""The head of a linear diffusion or a walk, given what was seen: posterior sampling.

    .. math:: \mathbb{E}[x_0 \mid x_t, y] \approx \hat x_0
              + C A^\top (A C A^\top + \sigma^2 I)^{-1} (y - A \hat x_0)

    For normal data under normal noise (linear diffusions, walks of normal increments, a
    `MixedWalk`) this is exact at each time, so that a run tends to draws from
    :math:`p(x_0 \mid y)` with its steps. For all other data it is an approximation, and so it is
    for all data under other noise: the best guess of :math:`x_0` that is linear in y, if C is
    right, where the noise of `Walk`, `LevyWalk`, `MarginalWalk`, `ReverseWalk`, `SharedWalk` or a
    `Levy` term has a variance. There `Tweedie` is refused. On finitely many data `Reweighted` is
    exact.

    What a learned head implies for :math:`A C A^\top` is made symmetric, and nothing is learned in
    directions where it is not positive, as it is for a covariance.

    Arguments:
        head: The head.
        process: The process: one scalar or diagonal linear diffusion, on a clock or not, or that
            of a walk whose noise has a variance.
        matrix: A, on flattened data, of shape (m, n).
        values: y, of shape (m,) or (B, m).
        std: :math:`\sigma > 0`, a number or of shape (m,).
        spread: Where C is taken from; `Tweedie` if not given.

    Raises:
        ValueError: If shapes do not fit or :math:`\sigma` is not positive.
        Unsolved: For other processes, such as stable noise, and for `Tweedie` where the noise is
            not normal.

    Example:
        >>> from discdiff import Linear, Noise, heads
        >>> vp = Linear(-0.5) + Noise(1.0)  # data N(0, 1) stay N(0, 1)
        >>> head = Observed(heads.Score(lambda x, t: -x), vp, torch.eye(1), torch.ones(1), 1.0)
        >>> head(torch.zeros(1, 1), torch.full((1,), 4.0)).value  # v / (1 + v), v = 1 − e⁻⁴
        tensor([[0.4954]])
    """

    def __init__(
        self,
        head: Head,
        process: Process,
        matrix: Tensor,
        values: Tensor,
        std: float | Tensor,
        spread: Spread | None = None,
    ) -> None:
        super().__init__(head)
        self.kind = Mean  # type: ignore[misc]
        self.process, self.spread = process, spread or Tweedie()
        self.matrix, self.values, self.variance = _checked(matrix, values, std)
        _require_known(self.spread, _linear(process, process.instant(0.5)).core.engine)

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Mean:
        leaf = _linear(self.process, t)
        matrix = self.matrix.to(x)
        _require_entries(matrix, x)
        moments = _moments(leaf, x)
        guess = lambda at: self.process._convert(self.head(at, t, context), at, t, Mean).value
        mean, seen = self.spread(guess, x, moments, matrix)
        left = self.values.to(x) - mean.flatten(1) @ matrix.mT
        pull = _solved(seen @ matrix.mT, self.variance.to(x), left)
        return Mean(mean + torch.einsum("bmn,bm->bn", seen, pull).reshape(x.shape))


def _linear(process: Process, t: Tensor) -> Leaf:
    """The one leaf of a process whose state is scaled data and noise without correlation.

    Raises:
        Unsolved: If it is another process.
    """
    if isinstance(process, Chain):
        raise Unsolved("Observed asks the process that a chain is taken from: chain.process")
    process.require_own_coordinates("Observed")
    leaves = list(process.leaves(t))
    alone = len(leaves) == 1 and not leaves[0].path and not leaves[0].moving
    if not (alone and isinstance(leaves[0].core.engine, Gaussian | WalkEngine)):
        raise Unsolved(
            "Observed is known for one scalar or diagonal linear diffusion and for walks, not for "
            f"{process!r}; on categories and counts guide by guidance.Classifier and "
            "inverse.Likelihood"
        )
    return leaves[0]


def _moments(leaf: Leaf, x: Tensor) -> Moments:
    """Of the state given the data.

    Raises:
        Unsolved: Where the noise has no variance.
    """
    engine: Any = leaf.core.engine
    if isinstance(engine, WalkEngine):
        return engine.moments(x, leaf.time)
    return engine.moments(torch.zeros_like(leaf.time), leaf.time)


def _require_known(spread: Spread, engine: Any) -> None:
    """Raises unless the spread is known for the noise of this engine."""
    if isinstance(engine, WalkEngine):
        engine.require_variance()
        if spread.of_normal_noise and not engine.normal:
            raise Unsolved(
                f"{type(spread).__name__} is known for normal noise only: of "
                f"{engine.increment.name} noise the slope of the mean does not say the "
                "covariance. Way out: an approximate spread=inverse.Covariance(covariance of the "
                "data), or, for the exact head of finitely many data, inverse.Reweighted"
            )


def _checked(matrix: Tensor, values: Tensor, std: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""A, y and :math:`\sigma^2`, (m, n), (m,) or (B, m), and (m,)."""
    matrix, values = as_numbers(matrix, "matrix"), as_numbers(values, "values")
    std = as_numbers(std, "std")
    require(matrix.dim() == 2, f"matrix must have shape (m, n); it is {tuple(matrix.shape)}")
    count = len(matrix)
    fits = values.dim() in (1, 2) and values.shape[-1] == count
    require(fits, f"values must end in the {count} rows of matrix; shape {tuple(values.shape)}")
    require(std.shape in ((), (count,)), f"std must be a number or have shape ({count},)")
    require(bool((std > 0).all()), f"std must be > 0; the least is {float(std.min()):g}")
    return matrix, values, (std**2).expand(count)


def _require_entries(matrix: Tensor, x: Tensor) -> None:
    """Raises unless the columns of A are the entries of a state."""
    entries = math.prod(x.shape[1:])
    require(
        matrix.shape[1] == entries,
        f"matrix has {matrix.shape[1]} columns; the state has {entries} entries",
    )


def _on(value: Tensor, x: Tensor) -> Tensor:
    """Numbers (B,) or (B, k) against a state, k on its last axis."""
    gap = (1,) * (x.dim() - value.dim())
    return value.to(x.dtype).reshape(value.shape[:1] + gap + value.shape[1:])


def _solved(table: Tensor, variance: Tensor, left: Tensor) -> Tensor:
    r""":math:`(A C A^\top + \sigma^2 I)^{-1}` on vectors (B, m), where :math:`A C A^\top > 0`."""
    scale = variance.rsqrt()
    values, vectors = torch.linalg.eigh(scale.unsqueeze(-1) * (table + table.mT) / 2 * scale)
    inside = torch.einsum("bmi,bm->bi", vectors, left * scale)
    inside = torch.where(values > 0, inside / (1 + values), 0.0)
    return torch.einsum("bmi,bi->bm", vectors, inside) * scale


class Reweighted(Guided):
    r"""The exact head of finitely many data, given what was seen: exact posterior sampling.

    .. math:: P(x_0 = a_n \mid x_t, y) \propto P(x_0 = a_n \mid x_t)\;
              \mathcal{N}(y;\; A a_n, \operatorname{diag} \sigma^2)

    Exact for every process, as y and :math:`x_t` are independent given the data: with
    `steppers.Ancestral` each step is a draw from :math:`p(x_s \mid x_t, y)`, so that what is drawn
    errs only by its start, the law of the noise in place of :math:`p(x_T \mid y)`. With one y for
    all it is ``Exact(process, data, weights)`` with the weights of the data given y.

    Arguments:
        head: `heads.Exact`, or another head that says ``Atoms`` of one tensor.
        matrix: A, on flattened data, of shape (m, n).
        values: y, of shape (m,) or (B, m).
        std: :math:`\sigma > 0`, a number or of shape (m,).

    Raises:
        ValueError: If shapes do not fit or :math:`\sigma` is not positive.
        Unsolved: For other heads.

    Example:
        >>> from torch.distributions import Laplace
        >>> from discdiff import Exact, Walk
        >>> walk, data = Walk(Laplace(0.0, 1.0), [0.5, 0.5]), torch.tensor([[-1.0], [1.0]])
        >>> exact = Exact(walk.process, data)
        >>> head = Reweighted(exact, torch.eye(1), torch.tensor([0.5]), 1.0)
        >>> head(torch.zeros(1, 1), torch.ones(1)).log_weights.exp()  # of odds e¹
        tensor([[0.2689, 0.7311]], dtype=torch.float64)
    """

    def __init__(self, head: Head, matrix: Tensor, values: Tensor, std: float | Tensor) -> None:
        super().__init__(head)
        if head.kind is not Atoms:
            raise Unsolved(
                "Reweighted asks for a finite law of the data, heads.Exact, not "
                f"{head.kind.__name__}: for others inverse.Observed is an approximation"
            )
        self.matrix, self.values, self.variance = _checked(matrix, values, std)

    def forward(self, x: Tensor, t: Tensor, context: Any = None) -> Atoms:
        estimate = self.head(x, t, context)
        assert isinstance(estimate, Atoms)
        atoms, log_weights = estimate.atoms, estimate.log_weights
        require(isinstance(atoms, Tensor), "what is seen is read off one tensor, not a product")
        matrix, flat = self.matrix.to(log_weights), atoms.flatten(1).to(log_weights)
        _require_entries(matrix, atoms)
        left = self.values.to(log_weights).unsqueeze(-2) - flat @ matrix.mT
        seen = -(left.square() / self.variance.to(log_weights)).sum(-1) / 2
        return Atoms((log_weights + seen).log_softmax(-1), atoms)


class Likelihood:
    r""":math:`\log p(y \mid x_t)` of data that are categories or counts: a guess.

    .. math:: \log \mathcal{N}\big(y;\; A \hat x_0,\; A\, \mathrm{diag}(\operatorname{Var}[x_0^d
              \mid x_t])\, A^\top + \sigma^2 I \big)

    The law of :math:`A x_0` given :math:`x_t` is taken to be normal and its entries to be
    independent; both hold at t = 0, in the limit of many alike entries for sums of them, and
    nowhere exactly. Moments are those of a ``Posterior`` or ``LeaveOneOut`` over the values of the
    categories; entries that a masked process shows are known. Units that a ``Missing`` head
    expects are Poisson numbers. Give it to `guidance.Classifier`, with the same head or another.

    Arguments:
        head: A head that says what :math:`x_0` is.
        process: One process of categories, or pure death.
        matrix: A, on flattened data, of shape (m, n).
        values: y, of shape (m,) or (B, m).
        std: :math:`\sigma > 0`, a number or of shape (m,).
        levels: The number that each category stands for, (K,): 0, 1, … if not given.

    Raises:
        ValueError: If shapes do not fit or :math:`\sigma` is not positive.
        Unsolved: For other processes and heads.

    Example:
        >>> from discdiff import Death, heads
        >>> head = heads.Missing(lambda x, t: torch.full_like(x, -100.0))  # nothing is missing
        >>> seen = Likelihood(head, Death(), torch.eye(1), torch.tensor([2.0]), 1.0)
        >>> seen(torch.tensor([[2.0], [0.0]]), torch.ones(2))  # −log(2π)/2, and 2 less
        tensor([-0.9189, -2.9189])
    """

    def __init__(
        self,
        head: Head,
        process: Process,
        matrix: Tensor,
        values: Tensor,
        std: float | Tensor,
        levels: Tensor | None = None,
    ) -> None:
        require_head(head)
        self.head, self.process, self.levels = head, process, levels
        self.matrix, self.values, self.variance = _checked(matrix, values, std)
        leaves = list(process.leaves(process.instant(0.5)))
        require(len(leaves) == 1, "what is seen is read off one process, not a product")
        self.engine: Any = leaves[0].core.engine

    def __call__(self, x: Tensor, t: Tensor, context: Any = None) -> Tensor:
        mean, spread = (v.flatten(1) for v in self._moments(x, t, context))
        matrix = self.matrix.to(mean)
        require(
            matrix.shape[1] == mean.shape[1],
            f"matrix has {matrix.shape[1]} columns; the state has {mean.shape[1]} entries",
        )
        covariance = (matrix * spread.unsqueeze(1)) @ matrix.mT + self.variance.to(mean).diag()
        root = torch.linalg.cholesky(covariance)
        seen = self.values.to(mean).reshape(-1, len(matrix))
        seen = seen.repeat_interleave(
            len(mean) // len(seen), 0
        )  # changes of a state are neighbours
        left = (seen - mean @ matrix.mT).unsqueeze(-1)
        inside = torch.linalg.solve_triangular(root, left, upper=False).squeeze(-1)
        volume = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        size = len(matrix) * math.log(2 * math.pi) + 2 * volume
        return -(size + inside.square().sum(-1)) / 2

    def _moments(self, x: Tensor, t: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance of each entry of the data, both (B, *event)."""
        estimate = self.head(x, t, context)
        if isinstance(self.engine, PureDeath):
            leaf = next(iter(self.process.leaves(t)))
            lost = self.engine.missing_of(estimate, x, leaf.time)
            return x + lost, lost
        if isinstance(estimate, LeaveOneOut):
            estimate = self.process._convert(estimate, x, t, Posterior)
        if not isinstance(estimate, Posterior):
            raise Unsolved(f"{type(estimate).__name__} says too little of x_0: use Posterior")
        return self._of_law(estimate.log_probs.exp(), x)

    def _of_law(self, law: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = torch.arange(law.shape[-1]) if self.levels is None else self.levels
        levels = levels.to(law)
        mean = law @ levels
        variance = (law @ levels.square() - mean.square()).clamp(min=0)
        target = getattr(self.engine, "target", None)
        if target is None:
            return mean, variance
        shown = x != target
        known = levels[torch.where(shown, x, 0)]
        return torch.where(shown, known, mean), variance.masked_fill(shown, 0.0)
