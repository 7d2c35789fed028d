r"""Linear diffusions with matrices on the last axis, with or without auxiliary variables.

For :math:`dy = (A y + b)\, dt + B\, dW` with :math:`\Phi, m, \Sigma` the moments over a time,

.. math::
    y_t \mid x_0 \sim \mathcal{N}(P_t x_0 + m_t, L_t L_t^\top),

where :math:`P_t = \Phi_t` and :math:`L_t L_t^\top = \Sigma_t` for data on the whole last axis. A
lift has data on its first coordinate only, and auxiliaries :math:`v \sim \mathcal{N}(\mu, V)`
integrated in: :math:`P_t` is the first column of :math:`\Phi_t`, and

.. math:: m_t = \Phi_{\cdot v}\, \mu + m, \qquad
          L_t L_t^\top = \Phi_{\cdot v}\, V\, \Phi_{\cdot v}^\top + \Sigma_t .

The statistic that closes the heads is :math:`x_0`. With :math:`y = P x_0 + m + L \varepsilon` the
score is :math:`-L^{-\top} \hat\varepsilon`, and the bridge to an earlier time s is

.. math::
    P_s \hat x_0 + m_s + W (y_t - P_t \hat x_0 - m_t), \qquad
    W = \Sigma_s \Phi^\top \Sigma_t^{-1},

with a covariance that is never found as a difference. Where noise comes through a chain along no
axis, factors are those in the coordinates of a staircase: :math:`T L` stands for L then.

References:
    | Where to diffuse, how to diffuse, and how to get back (Singhal et al., 2023)
    | Score-based generative modeling with critically-damped Langevin diffusion (Dockhorn et al.,
      2022)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import pad

from .. import estimates
from ..estimates import Data, Epsilon, Estimate, Mean, Normal
from ..numerics.autodiff import Memo
from ..numerics.conditional import conditioned
from ..numerics.constant import Constant, Places, digits
from ..numerics.factors import (
    add_columns,
    cholesky,
    lower_inverse,
    product,
    recorded,
    sum_of,
    times_vector,
    triangular,
)
from ..numerics.rotation import FIRST, Rotation, extent
from ..numerics.special import log1pexp
from ..numerics.staircase import Stairs, hearing, reached, staircase
from ..numerics.systems import Flow, Units, Varying, lyapunov, running
from ..params import Versions, changes, once_each
from ..shapes import act, one_time, span
from ..solve import Engine, Score, Unsolved, solves
from ..terms import LinearDrift, WhiteNoise
from ..validation import shown, values_are_checked
from .affine import AffineEngine, Vectorwise
from .correlated import Correlated, require_density
from .gaussian import Gaussian, normal
from .horizon import horizon, require_near

PARTS = (4, 8, 16, 32, 64, 128)  # of a unit of own time
TOLERANCE = 1e-11  # of the flow over each unit
TURNS = 2**15  # the most panels of a table of rotations
SHORT = 3  # coordinates of a lift that loses few digits: rounding, over time to the power 3/2
KEPT = 1024  # kernels at one time each
DISTINCT = 2e10  # growth of rounding in a whitened law: beyond, fewer than four digits are left
MANY = 512  # spans of time, of which some will be equal


@dataclass(frozen=True)
class Kernel:
    r"""The law :math:`\mathcal{N}(P x_0 + m, L L^\top)` of the noisy state given the data.

    Arguments:
        load: P, shape (B, *sides, k, c) with c = 1 under a lift, else k.
        mean: m, shape (B, *sides, k).
        factor: L, lower triangular in the coordinates of the law, shape (B, *sides, k, k).
    """

    load: Tensor
    mean: Tensor
    factor: Tensor


@dataclass(frozen=True, eq=False)
class Auxiliaries:
    """The initial law of the auxiliaries.

    Arguments:
        mean: Shape (k − 1,); None for zero.
        factor: Lower factor of the covariance, shape (k − 1, k − 1).
        columns: The factor with a row of zeros for the data in front, shape (k, k − 1).
    """

    mean: Tensor | None
    factor: Tensor
    columns: Tensor


class Basis(NamedTuple):
    """Coordinates in which a system with constant numbers is tabulated, found at declaration.

    Arguments:
        stairs: The staircase that they follow; None for the own ones.
        digits: The sizes of the tables.
    """

    stairs: Stairs | None
    digits: tuple[int, ...]


class Tables(NamedTuple):
    """What is known of a system with constant numbers, as long as they stay the same.

    Arguments:
        flows: The flows, in the coordinates of a basis.
        turn: From those coordinates to the own ones; None where they are the same.
        kernels: Those at one time each, by the auxiliaries and the time.
    """

    flows: Constant
    turn: Tensor | None
    kernels: dict[tuple[Auxiliaries | None, float], Kernel]


@solves(LinearDrift, WhiteNoise)
class MatrixGaussian(AffineEngine):
    """Linear diffusions of vectors: power series and composition, no commutation assumed."""

    technique = "power series, composed; factors entry by entry and by rotations"
    speaks = (Mean, Epsilon, estimates.Score)

    @classmethod
    def plan(cls, terms: tuple[Any, ...]) -> Engine:
        matrices = any(term.is_matrix() for term in terms)
        return cls(terms) if matrices else Gaussian(terms)

    auxiliaries: Auxiliaries | None = None

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        self.drifts = [term for term in terms if isinstance(term, LinearDrift)]
        self.noises = [term for term in terms if isinstance(term, WhiteNoise)]
        (self.size,) = {size for term in terms for size in term.widths().values()} or {1}
        self.varying = any(term.varies() for term in terms)
        zero = self._start()
        with torch.enable_grad():
            A, b, G = self._system(zero)
        self.full = self.reached = self.varying or reached(A[0], G[0])
        self.changes = any(v.requires_grad for v in (A, b, G))
        self.stable = not self.varying and _hurwitz(A)
        self.drifting = self.varying or self.changes or bool(b.ne(0).any())
        self.ranks: tuple[int, ...] | None = None
        self.noise_basis = self.data_basis = Basis(None, ())
        if not self.varying:
            self._find_bases(A[0], G[0])
        self.learned = self.changes or changes(*terms)
        self._parts: dict[int, int] = {}  # of each unit, by the number of units they resolve
        self._units: dict[int, Units] = {}
        self._versions = Versions([])
        self._memo, self._memo_of_lifts, self._mirror = Memo(), Memo(), Memo()
        self._places = Places(self.size, zero.device)
        self._turns: dict[Any, Rotation] = {}
        self._asked: float | None = None  # the last time for which a kernel was asked by itself
        self._fixed: Tables | None = None
        self._fixed_of_lifts: Tables | None = None
        if not (self.varying or self.changes):
            self._fixed, self._fixed_of_lifts = self._tables(), self._lifted_tables()
        if self.varying:
            self._resolve(1)

    def _find_bases(self, A: Tensor, G: Tensor) -> None:
        """The bases of the tables of the system itself and of its lifts; looks at values."""
        self.noise_basis = self.data_basis = self._basis(A, None)
        if A.dim() > 2:
            return
        noise, data = staircase(A, G), hearing(A, G)
        if not noise.aligned():
            self.ranks, self.noise_basis = noise.ranks, self._basis(A, noise)
        if (data.silent or 0) > 1 and not data.aligned():
            self.data_basis = self._basis(A, data)

    def _basis(self, A: Tensor, stairs: Stairs | None) -> Basis:
        A = A if stairs is None else stairs.turn.mT @ A @ stairs.turn
        return Basis(stairs, digits(A, self.stable, int(self.changes)))

    def branch(self) -> str:
        if self.varying:
            parts = self._parts[max(self._parts)]
            return f"functions of time: {parts} panels a unit of own time"
        return f"k = {self.size}, {'stable' if self.stable else 'no limit'}"

    def lifted(self, mean: Tensor, factor: Tensor) -> Engine:
        engine = copy(self)  # with the tables of this one
        known = values_are_checked(mean) and not mean.requires_grad
        shift = None if known and not bool(mean.any()) else mean
        engine.auxiliaries = Auxiliaries(shift, factor, pad(factor, (0, 0, 1, 0)))
        if not self.reached:
            A, _, G = self._system(self._start())
            engine.reached = reached(A[0], G[0], engine.auxiliaries.columns)
        engine._asked = None
        return engine

    def _start(self) -> Tensor:
        """The time 0, shape (1,), where the numbers are."""
        return self.terms[0].instant(0.0)

    # -- moments -------------------------------------------------------------------------------

    def _system(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A, b and G at times (n,), with n or 1 in front and the same sides behind."""
        k = self.size
        with once_each():
            pairs = [(drift.scale, *drift.system(t, k)) for drift in self.drifts]
            Gs = [noise.scale * noise.square(t, k) for noise in self.noises]
        As, bs = ([pair[0] * pair[i] for pair in pairs] for i in (1, 2))
        zeros = torch.zeros(1, k, k, dtype=torch.float64, device=t.device)
        axes = max(v.dim() for v in (zeros, *As, *Gs)) - 1
        A, G = (sum_of(_behind(v, axes) for v in vs or [zeros]) for vs in (As, Gs))
        b = _behind(sum_of(bs or [zeros[..., 0]]), axes - 1)
        if axes == 2:
            return A, b, G
        sides = torch.broadcast_shapes(A.shape[1:-2], G.shape[1:-2])
        A, G = (v.expand(-1, *sides, -1, -1) for v in (A, G))
        return A, b.expand(-1, *sides, -1), G

    def _tables(self) -> Tables:
        """The tables for the numbers as they are now, in the coordinates of the noise."""
        make = lambda: self._made(self._memo, self.noise_basis)
        return self._fixed or self._memo(self._numbers(), make)

    def _lifted_tables(self) -> Tables:
        """The tables of a lift, in the coordinates in which its data hear the noise."""
        if self.data_basis is self.noise_basis:
            return self._tables()
        make = lambda: self._made(self._memo_of_lifts, self.data_basis)
        return self._fixed_of_lifts or self._memo_of_lifts(self._numbers(), make)

    def _tables_of_law(self) -> Tables:
        """The tables in whose coordinates the law given the data is found."""
        return self._tables() if self.auxiliaries is None else self._lifted_tables()

    def _made(self, memo: Memo, basis: Basis) -> Tables:
        A, b, G = (memo.forget_after(v.squeeze(0)) for v in self._system(self._start()))
        turn = None
        if basis.stairs is not None:
            stairs = basis.stairs.again(A, G)
            turn, (A, G) = stairs.turn, stairs.systems(A, G)
            b = times_vector(turn.mT, b)
        return Tables(Constant(A, b, G, self.stable, basis.digits, self._places), turn, {})

    def _numbers(self) -> Iterator[Tensor]:
        holders = dict.fromkeys(m for term in self.terms for m in term.modules())
        every = (n for m in holders for n in (*m._parameters.values(), *m._buffers.values()))
        return (n for n in every if n is not None)

    def flow(self, s: Tensor, t: Tensor) -> Flow:
        """The moments of the transition from s to t, each of shape (B,)."""
        return self.moments(s, t)[0]

    def moments(self, s: Tensor, t: Tensor) -> tuple[Flow, Tensor]:
        """The moments of the transition from s to t, and the factor in the noise's coordinates."""
        if _repeated(s) and _repeated(t):
            flow, factor = self.moments(s[:1], t[:1])
            every = Flow(*(v.expand(len(t), *v.shape[1:]) for v in flow))
            return every, factor.expand(every.cov.shape)
        if self.varying:
            flow = self._varying(s, t)
            return flow, cholesky(flow.cov)
        flows, turn, _ = self._tables()
        flow, factor = flows.law(span(s, t), singular=not self.full)
        return _turned_back(turn, flow, factor), factor

    def _noise_turn(self) -> Tensor | None:
        """From the coordinates in which the noise's factor is found to the own ones."""
        return None if self.varying else self._tables().turn

    def _data_turn(self) -> Tensor | None:
        """From the coordinates in which the factor given the data is found to the own ones."""
        return None if self.varying else self._tables_of_law().turn

    def _exact(self) -> bool:
        """Whether laws keep their digits at all times."""
        return not self.varying and (self.auxiliaries is None or self.size <= SHORT)

    def _require_digits(self, factor: Tensor, tau: Tensor) -> None:
        r"""Raises where the law of a factor has lost its digits.

        A row of L is rounded relative to its norm. In the whitened law this is multiplied by
        :math:`|L^{-1}|`, and once more where L is found from the covariance itself. With
        :math:`\varrho_i = |L_{i \cdot}| / L_{ii}` it grows by no more than
        :math:`2^{k - 1} \prod \varrho_i`, which is looked at first.

        Arguments:
            factor: L, lower triangular.
            tau: The times over which the law is one; no law is looked at over none.
        """
        if self._exact() or not values_are_checked(factor):
            return
        if _repeated(tau):
            factor, tau = factor[:1], tau[:1]
        factor = factor.detach()
        most = DISTINCT ** (0.5 if self.varying else 1.0)
        ratios = factor.abs().sum(-1) / factor.diagonal(dim1=-2, dim2=-1)
        if bool((2 ** (self.size - 1) * ratios.prod(-1) < most).all()):
            return
        rows = torch.linalg.vector_norm(factor, dim=-1)
        certain = torch.diag_embed((rows == 0).to(factor))
        growth = (lower_inverse(factor + certain).abs() @ rows.unsqueeze(-1)).reshape(len(tau), -1)
        lost = ~(growth < most).all(1) & (tau > 0)
        if bool(lost.any()):
            raise self._one_to_rounding(tau[lost])

    def _require_rounding(self, growth: Tensor | None, where: Tensor, t: Tensor) -> None:
        """Raises where rounding grows too much in a whitened law at some of the times t."""
        if growth is None or self._exact() or not values_are_checked(growth):
            return
        lost = ~(growth.reshape(len(t), -1) < DISTINCT).all(1) & where
        if bool(lost.any()):
            raise self._one_to_rounding(t[lost])

    def _one_to_rounding(self, tau: Tensor) -> Unsolved:
        return Unsolved(
            f"noise comes through a chain, and after {shown(tau)} its directions are one to "
            "rounding. Way out: later times (as by stop=1e-3), or coordinates along the chain"
        )

    def _varying(self, s: Tensor, t: Tensor) -> Flow:
        """The flows of functions of time; where many are asked for, each span of time once."""
        flows = self._flows(self._reach(t))
        if len(t) < MANY or s.requires_grad or t.requires_grad or torch.compiler.is_compiling():
            return flows(s, t)
        spans, which = torch.stack([s, t]).unique(dim=1, return_inverse=True)
        return Flow(*(v[which] for v in flows(*spans)))

    def _reach(self, t: Tensor) -> int:
        """The number of units of own time that reach to all t and are resolved."""
        count = horizon(t, self._parts)
        if count not in self._parts:
            self._resolve(count)
        return count

    def panels(self, t: Tensor) -> int:
        """The number of panels up to all t of which each unit of own time has its own."""
        count = self._reach(t) if self.varying else 0
        return count * self._parts.get(count, 0)

    def _flows(self, count: int) -> Callable[[Tensor, Tensor], Flow]:
        """The flows within so many units; kept where nothing is learned, as long as it is so."""
        step = Varying(self._system, self._parts[count])
        if count == 1:
            return lambda s, t: step(s, torch.where(t <= 1, t, torch.nan))
        if self.learned:
            return Units(step, step.units(count, self._start().device))
        if not self._versions.hold(self._numbers()):
            self._units, self._versions = {}, Versions(self._numbers())
        if count not in self._units:
            with torch.inference_mode(False), torch.no_grad():
                self._units[count] = Units(step, step.units(count, self._start().device))
        return self._units[count]

    @torch.no_grad()
    def _resolve(self, count: int) -> None:
        """Finds the first number of parts that resolves the functions in each of so many units.

        Raises:
            ValueError: If the functions are not smooth there.
            Unsolved: If these are more units than are looked at.
        """
        require_near(count)
        device, gap = self._start().device, torch.inf
        coarse = Varying(self._system, PARTS[0]).units(count, device)
        for parts in PARTS[1:]:
            fine = Varying(self._system, parts).units(count, device)
            pairs = zip(fine, coarse, strict=True)
            gap = float(torch.stack([_apart(*pair) for pair in pairs]).max())
            if gap < TOLERANCE:
                self._parts[count] = parts
                return
            coarse = fine
        raise ValueError(
            f"the functions of time are not smooth on [0, {count}]: with {PARTS[-1]} panels per "
            f"unit of it moments still change by {gap:.1e}, above {TOLERANCE:g}"
        )

    def kernel(self, t: Tensor) -> Kernel:
        """The law given the data at times of shape (B,)."""
        if _repeated(t):
            parts = vars(self._kernel_at(t[:1])).values()
            return Kernel(*(v.expand(len(t), *v.shape[1:]) for v in parts))
        if self._asked is None or not self._keeps(t):
            return self._kernel(t)
        tables, key = self._tables_of_law(), (self.auxiliaries, self._asked)
        kernels = tables.kernels
        if key in kernels:
            return self._kernel(t, tables)
        both = self._kernel(torch.cat([t, t.new_full((1,), self._asked)]), tables)
        pairs = [v.split([len(t), 1]) for v in vars(both).values()]
        batch, kernels[key] = (Kernel(*parts) for parts in zip(*pairs, strict=True))
        return batch

    def _kernel_at(self, t: Tensor) -> Kernel:
        """The law at one time (1,), kept as long as the numbers are the same.

        A training step asks for a batch of times and for the end: from the second step on, where
        numbers are learned, the end is found with the batch.
        """
        if not self._keeps(t):
            return self._kernel(t)
        self._asked = float(t)
        tables, key = self._tables_of_law(), (self.auxiliaries, self._asked)
        kernels = tables.kernels
        if key not in kernels:
            if len(kernels) == KEPT:
                kernels.clear()
            kernels[key] = self._kernel(t, tables)
        return kernels[key]

    def _keeps(self, t: Tensor) -> bool:
        """Whether kernels at one time are kept."""
        if self.varying or t.requires_grad or not values_are_checked(t):
            return False
        learned = self.auxiliaries is not None and recorded(self.auxiliaries.factor)
        return not learned and not torch.is_inference_mode_enabled()

    def _kernel(self, t: Tensor, tables: Tables | None = None) -> Kernel:
        if self.auxiliaries is None or self.varying:
            return self._given(*self.moments(torch.zeros_like(t), t))
        flows, turn, _ = tables or self._lifted_tables()
        columns = self.auxiliaries.columns  # type: ignore[union-attr]
        if turn is not None:  # lower triangular, so that what data hear late stays small
            columns = pad(triangular(turn[1:, 1:].mT @ columns[1:]), (0, 0, 1, 0))
        # The factor of the noise alone may be lost to rounding: auxiliaries cover what it loses.
        singular = not self.full or self.ranks is not None
        flow, factor = flows.law(t, columns, singular=singular)
        return self._lifted(_turned_back(turn, flow, factor), factor)

    def _given(self, flow: Flow, factor: Tensor) -> Kernel:
        """The law given the data, from the flow from 0 and the factor of its covariance."""
        aux = self.auxiliaries
        if aux is None:
            return Kernel(flow.phi, flow.mean, factor)
        return self._lifted(flow, add_columns(factor, product(flow.phi[..., 1:], aux.factor)))

    def _lifted(self, flow: Flow, factor: Tensor) -> Kernel:
        """The law given data on the first coordinate, from the factor with the auxiliaries."""
        mean, aux = flow.mean, self.auxiliaries
        if aux is not None and aux.mean is not None:
            mean = mean + times_vector(flow.phi[..., 1:], aux.mean)
        return Kernel(flow.phi[..., :1], mean, factor)

    def root(self, kernel: Kernel) -> Tensor:
        """T L, of the law given the data."""
        turn = self._data_turn()
        return kernel.factor if turn is None else turn @ kernel.factor

    def _white(self, t: Tensor) -> Tensor:
        r""":math:`L^{-1}` of the law given the data, which must have a density."""
        require_density(self.reached)
        return lower_inverse(self.kernel(t).factor)

    def inverse(self, kernel: Kernel) -> Tensor:
        r""":math:`L^{-1} T^\top` of the law given the data, which must have a density."""
        require_density(self.reached)
        turn, inverse = self._data_turn(), lower_inverse(kernel.factor)
        return inverse if turn is None else inverse @ turn.mT

    def _exact_inverse(self, kernel: Kernel, t: Tensor) -> Tensor:
        """The inverse at time t, refused where it has no digits left."""
        self._require_digits(kernel.factor, t)
        return self.inverse(kernel)

    def _align(self, value: Tensor, x: Tensor, axes: int) -> Tensor:
        """Numbers (B, *sides, …) with ``axes`` last axes of their own, against a state."""
        return _behind(value, x.dim() + axes - 2)

    def _fit(self, value: Tensor, x: Tensor, axes: int) -> Tensor:
        return self._align(value, x, axes).to(x.dtype)

    def _apply(self, matrix: Tensor, x: Tensor) -> Tensor:
        """Matrices (B, *sides, n, k) on the last axis of x, (B, *event, k)."""
        return act(self._fit(matrix, x, 2), x)

    def centre(self, x_0: Tensor, kernel: Kernel) -> Tensor:
        r""":math:`P x_0 + m`."""
        if self.auxiliaries is None:
            centre = self._apply(kernel.load, x_0)
            return centre + self._fit(kernel.mean, x_0, 1) if self.drifting else centre
        x_0 = x_0.unsqueeze(-1)
        return self._fit(kernel.load[..., 0], x_0, 1) * x_0 + self._fit(kernel.mean, x_0, 1)

    # -- laws ----------------------------------------------------------------------------------

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        flow, factor = self.moments(s, t)
        if self.full:
            self._require_digits(factor, t - s)
        centre = self._apply(flow.phi, x)
        if self.drifting:
            centre = centre + self._fit(flow.mean, x, 1)
        return self._law(centre, factor, self.full, self._noise_turn())

    def marginal(self, x_0: Tensor, t: Tensor) -> Distribution:
        kernel = self.kernel(t)
        if self.reached:
            self._require_digits(kernel.factor, t)
        turn = self._data_turn()
        return self._law(self.centre(x_0, kernel), kernel.factor, self.reached, turn)

    def _law(
        self, centre: Tensor, factor: Tensor, dense: bool, turn: Tensor | None = None
    ) -> Distribution:
        law = Correlated(centre, self._align(factor, centre, 2), dense, turn)
        return law.to_event(centre.dim() - 2)

    def perturb(self, x_0: Tensor, t: Tensor) -> tuple[Tensor, Estimate]:
        """A draw, with the noise itself as the target: what the data say of it at x_t."""
        kernel = self.kernel(t)
        centre = self.centre(x_0, kernel)
        noise = torch.randn_like(centre)
        return centre + self._apply(self.root(kernel), noise), Epsilon(noise)

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        mean, S = self._stationary()
        like = torch.zeros(shape, dtype=torch.get_default_dtype(), device=mean.device)
        factor = cholesky(S, singular=not self.full).unsqueeze(0)
        centre = self._fit(mean.unsqueeze(0), like, 1).expand(shape)
        return self._law(centre, factor.expand(shape[0], *factor.shape[1:]), self.full)

    def _stationary(self) -> tuple[Tensor, Tensor]:
        """The mean and the covariance of the limit law."""
        A, b, G = (v[0] for v in self._system(self._start()))
        looked = self.changes and not torch.compiler.is_compiling()
        if not (_hurwitz(A) if looked and not self.varying else self.stable):
            raise Unsolved(
                "there is no limit law: the drift matrix has an eigenvalue of real part ≥ 0 (or "
                "varies in time)"
            )
        return -torch.linalg.solve(A, b.unsqueeze(-1)).squeeze(-1), lyapunov(A, G)

    def rewind(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        r"""The law of :math:`X_s` given :math:`X_t = x` in the limit, where time is reversed.

        Its drift matrix is :math:`S A^\top S^{-1} = (Q - D) S^{-1}`, its noise the same.
        """
        mean, _ = self._stationary()
        flow = self._mirror(self._numbers(), self._backwards)(one_time(t, s) - one_time(s, t))
        centre = self._fit(mean.unsqueeze(0), x, 1)
        factor = cholesky(flow.cov, singular=not self.full)
        return self._law(centre + self._apply(flow.phi, x - centre), factor, self.full)

    def _backwards(self) -> Constant:
        A, _, G = (v[0] for v in self._system(self._start()))
        S = self._stationary()[1]
        A, G = torch.broadcast_tensors(torch.linalg.solve(S, S @ A.mT, left=False), G)
        sizes = digits(A, True, int(self.changes))
        return Constant(A, torch.zeros_like(A[..., 0]), G, True, sizes)

    def limit_score(self, x: Tensor) -> Tensor:
        """The score of the limit law."""
        mean, S = self._stationary()
        rest = x - self._fit(mean.unsqueeze(0), x, 1)
        return -self._apply(torch.linalg.inv(S).unsqueeze(0), rest)

    # -- steps ---------------------------------------------------------------------------------

    def spread(self, estimate: Normal, s: Tensor, t: Tensor, eta: float) -> Any:
        raise self.unsolved("a step averaged over a normal law of the data")

    def around(self, centre: Tensor, c: Tensor) -> Distribution:
        return self._law(centre, c, self.full, self._noise_turn())

    def affine(self, kind: type, s: Tensor, t: Tensor, eta: float) -> Vectorwise:
        r"""The step to s that keeps the marginal, with noise :math:`\eta` times the bridge's.

        .. math:: y_s = P_s \hat x_0 + m_s + C\, (y_t - P_t \hat x_0 - m_t) + \eta F \xi, \qquad
                  C \Sigma_t C^\top = (1 - \eta^2)\, \Sigma_s + \eta^2\, W \Sigma_t W^\top

        with W the gain of the bridge and :math:`F F^\top` its covariance. C is W at
        :math:`\eta = 1` and :math:`R_s R_t^{-1}` at 0; between them it is the solution nearest to
        a blend of both.

        References:
            | gDDIM: Generalized denoising diffusion implicit models (Zhang et al., 2023)
        """
        if eta > 1:
            raise self.unsolved("a step of vectors with more noise than the bridge's (eta > 1)")
        early, late = self.kernel(s), self.kernel(t)
        noise = None
        if eta:
            gain, noise = self._bridged(early, late, s, t)
            noise = eta * noise
        if eta < 1:
            gain = self._keeping(early, late, s, t, eta)
        p, q = self._reading(kind, late)
        rest = early.load - gain @ late.load
        mean = early.mean - times_vector(gain + rest @ p, late.mean) if self._shifts() else None
        turn = self._noise_turn() if eta else None
        flat = self.auxiliaries is not None and issubclass(kind, Data | Mean)
        return Vectorwise(gain + rest @ p, rest @ q, mean, noise, turn, flat_in=flat)

    def _bridged(self, early: Kernel, late: Kernel, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The gain of the bridge, and its factor in the noise's coordinates.

        There the noise between s and t is graded, and so is the bridge if they are close.
        """
        require_density(self.reached)
        if self.varying:
            self._require_digits(early.factor, s)
        self._require_digits(late.factor, t)
        turn, L = self._noise_turn(), early.factor
        if turn is None:
            flow, spread = self.moments(s, t)
        else:
            flow, spread = self._tables().flows.law(span(s, t), singular=not self.full)
        if turn is not self._data_turn():
            L = triangular(turn.mT @ self.root(early))  # type: ignore[union-attr]
        still, eye = _behind(s == t, L.dim() - 1), torch.eye(self.size).to(L)
        spread = torch.where(still, eye, spread)
        gain, noise, rounding = conditioned(L, flow.phi, spread, self.full)
        self._require_rounding(rounding, (t > s) & (s > 0), s)
        gain, noise = torch.where(still, eye, gain), torch.where(still, 0.0, noise)
        return gain if turn is None else turn @ gain @ turn.mT, noise

    def _keeping(self, early: Kernel, late: Kernel, s: Tensor, t: Tensor, eta: float) -> Tensor:
        """The gain of a step with less than the whole noise."""
        if self.auxiliaries is not None:  # L has a jump at 0, where Σ is singular
            early = self.kernel(s.clamp(min=self._shortest(t)))
        rotation, inverse = self._rotation(t), self.inverse(late)
        between = rotation(s) @ rotation(t).mT
        if eta:
            shrunk = (inverse @ self.flow(s, t).phi @ self.root(early)).mT
            between = _nearest(between, shrunk, eta)
        return self.root(early) @ between @ inverse

    def _stairs(self) -> Stairs | None:
        """The staircase in whose coordinates the law given the data is factored."""
        basis = self.noise_basis if self.auxiliaries is None else self.data_basis
        return basis.stairs

    def reading(self, kind: type, t: Tensor) -> Vectorwise:
        r""":math:`\hat x_0` from the state and what the network says of it."""
        kernel, flat = self.kernel(t), self.auxiliaries is not None
        p, q = self._reading(kind, kernel)
        mean = -times_vector(p, kernel.mean) if self._shifts() else None
        data = issubclass(kind, Data | Mean)
        return Vectorwise(p, q, mean, flat_in=flat and data, flat_out=flat)

    def _reading(self, kind: type, kernel: Kernel) -> tuple[Tensor, Tensor]:
        r"""The matrices of :math:`\hat x_0 = p\, (y - m) + q\, e`, for what a network says.

        Under a lift it is the least-squares fit of :math:`L^{-1} (y - m - P \hat x_0)` to
        :math:`\hat\varepsilon`.
        """
        self.require_said(kind)
        load, root = kernel.load, self.root(kernel)
        if issubclass(kind, Data | Mean):
            eye = torch.eye(load.shape[-1], dtype=load.dtype, device=load.device)
            return 0 * load.mT, eye.expand(*load.shape[:-2], *eye.shape)
        if self.auxiliaries is None:
            p = torch.linalg.inv(load)
            q = -p @ root
        else:
            inverse = self.inverse(kernel)
            q = -(inverse @ load).mT
            q = q / q.square().sum(-1, keepdim=True)
            p = -q @ inverse
        return p, (q if issubclass(kind, Epsilon) else -q @ root.mT)

    def _shifts(self) -> bool:
        return self.drifting or self.auxiliaries is not None

    def _rotation(self, t: Tensor) -> Rotation:
        """The orthogonal O of R = L O up to t; kept where no number is learned."""
        lift, end = self.auxiliaries, float(self._reach(t)) if self.varying else torch.inf
        make = lambda: Rotation(self._frame, self._turning(end), end)
        if self.changes or (lift is not None and lift.factor.requires_grad):
            return make()
        key = () if lift is None else tuple(lift.factor.flatten().tolist())
        if (key, end) not in self._turns:
            self._turns[key, end] = make()
        return self._turns[key, end]

    def _turning(self, end: float) -> Tensor:
        r"""The :math:`\varrho` with which O is tabulated: panels of z are none of own time cut."""
        size = self._speed(end)
        if not self.varying:
            return size
        size = size.clamp(min=self._parts[int(end)] / 2)
        if extent(size, end)[1] > TURNS:
            raise Unsolved(
                f"steps of less than the whole noise up to the own time {end:g} need more than "
                f"{TURNS} panels of rotations. Way out: steps with eta=1"
            )
        return size

    def _speed(self, end: float) -> Tensor:
        """The size of A: the largest sum of a row, at any time."""
        count = 2 * int(end) * self._parts[int(end)] + 1 if self.varying else 1
        start = self._start()
        times = torch.linspace(0, end if count > 1 else 0, count).to(start)
        size = self._system(times)[0].detach().abs().sum(-1).max()
        return torch.where(size > 0, size, torch.ones_like(size))

    def _shortest(self, t: Tensor) -> float:
        """A time at which noise is rounding."""
        end = self._reach(t) if self.varying else torch.inf
        return math.exp(FIRST) / float(self._speed(end))

    def _frame(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A, G and the lower factor given the data at increasing times (n,)."""
        A, _, G = self._system(t)
        zero = torch.zeros_like(t)
        if not self.varying:
            stairs, factor = self._stairs(), self._kernel(t).factor
            return *(stairs.again(A[0], G[0]).systems(A, G) if stairs else (A, G)), factor
        starts = torch.cat([zero[:1], t[:-1]])
        flow = running(Varying(self._system, 1)(starts, t))
        return A, G, self._given(flow, cholesky(flow.cov)).factor

    # -- scores and estimates ------------------------------------------------------------------

    def epsilon_of(self, estimate: Estimate, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`\hat\varepsilon = L^{-1} (y - P \hat x_0 - m)`."""
        if isinstance(estimate, Epsilon):
            return estimate.value
        kernel = self.kernel(t)
        if isinstance(estimate, estimates.Score):
            return -self._apply(self.root(kernel).mT, estimate.value)
        rest = x - self.centre(self.mean_of(estimate, x, t), kernel)
        return self._apply(self._exact_inverse(kernel, t), rest)

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, estimates.Score):
            return Score(gradient=estimate.value)
        inverse = self._exact_inverse(self.kernel(t), t)
        return Score(gradient=-self._apply(inverse.mT, self.epsilon_of(estimate, x, t)))

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        if kind is Mean:
            return Mean(self.mean_of(estimate, x, t))
        if kind is Epsilon:
            return Epsilon(self.epsilon_of(estimate, x, t))
        if kind is estimates.Score:
            return estimates.Score(self.score(estimate, x, t).gradient)
        raise self.unsolved(f"conversion to {kind.__name__}")

    def _gain(self, t: Tensor, white: Tensor) -> Tensor:
        r""":math:`B^\top L^{-\top}`: which noise the loss sees, shape (B, *sides, r, k).

        A root of a singular G has no derivative: that in G is added by `_in_noise`.
        """
        stairs = self._stairs()
        roots = [noise.scale.sqrt() * noise.matrix(t, self.size) for noise in self.noises]
        roots = [_behind(B.detach(), white.dim() - 1) for B in roots]
        B = torch.cat([B.expand(len(t), *white.shape[1:-1], -1) for B in roots], -1)
        if stairs is not None:
            B = stairs._replace(turn=self._data_turn()).noise(B)
        return (white @ B).mT

    def _in_noise(self, t: Tensor, white: Tensor) -> Tensor | None:
        r"""Zero, with the derivative of :math:`L^{-1} G L^{-\top}` in G; None if there is none."""
        G = self._system(t)[2] if self.learned else white
        if not (self.learned and recorded(G)):
            return None
        turn, white = self._data_turn(), white.detach()
        white = white if turn is None else white @ turn.detach().mT
        return white @ _behind(G - G.detach(), white.dim() - 1) @ white.mT

    def kl_rate(
        self, target: Any, estimate: Any, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        gap = self.epsilon_of(estimate, x, t) - self.epsilon_of(target, x, t)
        white = self._white(t)
        gain, noise = self._gain(t, white), self._in_noise(t, white)
        factor = _half_square(gain)
        size = (2 * factor).reshape(-1, *(1,) * (gain.dim() - 1))
        values = self._apply(gain / size.sqrt(), gap).square().sum(-1)
        if noise is not None:
            fixed = gap.detach()
            values = values + (fixed * self._apply(noise / size.detach(), fixed)).sum(-1)
        return values, factor

    def coefficient(self, t: Tensor) -> Tensor:
        white = self._white(t)
        value, noise = _half_square(self._gain(t, white)), self._in_noise(t, white)
        if noise is None:
            return value
        trace = noise.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
        return value + trace.reshape(len(trace), -1).mean(-1)

    def trace(self, x: Tensor, t: Tensor) -> Tensor:
        value = self._gain(t, self._white(t)).square().sum((-2, -1)) / 2
        return self._fit(value, x, 0).expand(x.shape[:-1])

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r""":math:`\mathcal{N}(\hat x_0, (P^\top \Sigma^{-1} P)^{-1})`."""
        kernel = self.kernel(t)
        x_0 = self.mean_of(estimate, x, t)
        if self.auxiliaries is None:
            turn, load = self._noise_turn(), kernel.load
            load = load if turn is None else turn.mT @ load @ turn
            factor = triangular(torch.linalg.inv(load) @ kernel.factor)
            return self._law(x_0, factor, self.reached, turn)
        a = (self._exact_inverse(kernel, t) @ kernel.load).squeeze(-1)
        std = a.square().sum(-1).rsqrt()
        return normal(x_0, self._fit(std.unsqueeze(-1), x_0.unsqueeze(-1), 1).squeeze(-1))

    def survival(self, t: Tensor) -> Tensor:
        r"""The squared share :math:`(P_{11})^2` of the data's first coordinate."""
        load = self.kernel(t).load[..., 0, 0]
        return load.reshape(len(t), -1).square().mean(-1)

    def snr(self, t: Tensor) -> Tensor:
        r"""The signal-to-noise ratio :math:`(\det P^\top \Sigma^{-1} P)^{1/c}`, shape (B,)."""
        kernel = self.kernel(t)
        if self.auxiliaries is None:
            noise = kernel.factor.diagonal(dim1=-2, dim2=-1).log().mean(-1)
            level = 2 * (torch.linalg.slogdet(kernel.load)[1] / self.size - noise)
        else:
            level = (self.inverse(kernel) @ kernel.load).square().sum((-2, -1)).log()
        return torch.where(t > 0, level.reshape(len(t), -1).mean(-1).exp(), torch.inf)

    def profile(self, z: Tensor, breadth: float = 0.0) -> Tensor:
        r"""The rate :math:`\tfrac12 \operatorname{tr} G \Sigma^{-1}` per z, where noise is low."""
        with torch.no_grad():
            tau = log1pexp(z)
            rate = self.coefficient(tau) * z.sigmoid()
            rate = rate.nan_to_num(0.0, 0.0)  # where Σ has overflowed nothing is left of the data
        low = torch.where(z < -12, ((z + 12) / 2).exp(), torch.ones_like(z))
        return rate * (-z).sigmoid() * low + (-(z.abs() / 2)).exp() / 8


def _behind(value: Tensor, axes: int) -> Tensor:
    """Numbers per time with this many axes behind the first, ones in front of their own."""
    if value.dim() == axes + 1:
        return value
    gap = (1,) * (axes + 1 - value.dim())
    return value.reshape(value.shape[:1] + gap + value.shape[1:])


def _apart(fine: Tensor, coarse: Tensor) -> Tensor:
    """How far the flows of some unit are apart, relative to its largest number above one."""
    size = fine.abs().flatten(1).amax(1).clamp(min=1)
    return ((fine - coarse).abs().flatten(1).amax(1) / size).max()


def _turned_back(turn: Tensor | None, flow: Flow, factor: Tensor) -> Flow:
    """A flow in the own coordinates, from turned ones."""
    if turn is None:
        return flow
    root, mean = turn @ factor, times_vector(turn, flow.mean)
    return Flow(turn @ flow.phi @ turn.mT, mean, root @ root.mT)


def _half_square(gain: Tensor) -> Tensor:
    r""":math:`\tfrac12 \| \cdot \|_F^2`, the mean over sides, shape (B,)."""
    square = gain.square().sum((-2, -1)) / 2
    return square.reshape(len(square), -1).mean(-1)


def _hurwitz(A: Tensor) -> bool:
    """Whether all eigenvalues have negative real parts; looks at values, once."""
    return bool((torch.linalg.eigvals(A.detach()).real < 0).all())


def _repeated(t: Tensor) -> bool:
    """Whether this is one time, expanded to a batch."""
    return t.stride() == (0,) and len(t) > 1


def _nearest(turned: Tensor, shrunk: Tensor, eta: float) -> Tensor:
    r"""The Y with :math:`Y Y^\top = (1 - \eta^2) I + \eta^2 H H^\top` nearest to a blend.

    The blend is :math:`\sqrt{1 - \eta^2}\, O + \eta H`; this is a Procrustes problem.
    """
    eye = torch.eye(turned.shape[-1], dtype=turned.dtype, device=turned.device)
    share = (1 - eta**2) ** 0.5
    factor = cholesky(share**2 * eye + eta**2 * shrunk @ shrunk.mT)
    left, _, right = torch.linalg.svd(factor.mT @ (share * turned + eta * shrunk))
    return factor @ left @ right
