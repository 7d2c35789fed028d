r"""Walks: the law of a sum of scaled increments, by the shape of the law.

Given :math:`x_s`, every walk is :math:`x_t = \sqrt{\bar\alpha_t / \bar\alpha_s}\, x_s + n_{s,t}`
with noise of variance :math:`1 - \bar\alpha_t / \bar\alpha_s` that does not depend on the state.
So an engine is the law of this noise; densities of bridges follow from three of them,

.. math:: p(x_s \mid x_0, x_t) = \frac{p(x_s \mid x_0)\, p(x_t \mid x_s)}{p(x_t \mid x_0)}.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from .. import laws
from ..estimates import Atoms, Data, Epsilon, Mean, Velocity
from ..estimates import Score as ScoreEstimate
from ..increments import Increment
from ..increments.base import REALS
from ..laws import Still
from ..numerics.autodiff import gradient
from ..params import changes
from ..shapes import along, one_time
from ..solve import Engine, Score, Unsolved
from ..validation import shown, values_are_checked
from .gaussian import Moments
from .walk_bridge import BoundedBridge, Bridge

Law = Any  # a distribution with entries as batch dimensions
EDGE = 1e-6  # how near a tilted law's mean may come to the end of its support
KNEE = 0.75  # of the way there, from where guesses of it are bent
LOST = 1e-3  # of the noise of a step, by rounding, where densities of drawn states still count
NEAR = 1e-6  # a time is the number of a step up to what a division by T loses


class WalkEngine(Engine):
    """What all walks share; an engine says the law of the noise.

    Attributes:
        normal: Whether the noise is normal.
        learned: Whether the term's numbers may change, so that nothing made of them is kept.
        jumps: Whether steps tend to jumps as they shrink, and not to normal noise.
    """

    normal = False
    jumps = False

    def __init__(self, terms: tuple[Any, ...]) -> None:
        super().__init__(terms)
        if len(terms) != 1:
            raise self.unsolved("a sum with other terms")
        self.term: Any = terms[0]
        self.increment: Increment = self.term.increment
        self.learned = changes(self.term)
        self._log_kept = self._kept_now()
        self.count = len(self._log_kept) - 1
        probe = torch.linspace(0.1, 3.0, 7, dtype=torch.float64)
        self.symmetric = bool((self.increment.cf(probe).imag.abs() < 1e-14).all())

    def branch(self) -> str:
        return f"{self.count} steps, {self.increment.name}"

    @property
    def log_kept(self) -> Tensor:
        r""":math:`\log \bar\alpha_k` for k = 0 … T, worked out anew where it is learned."""
        return self._kept_now() if self.learned else self._log_kept

    def _kept_now(self) -> Tensor:
        return self.term.log_kept

    def index(self, t: Tensor) -> Tensor:
        """The number of the step.

        Raises:
            ValueError: If a time is none, or lies beyond the last.
        """
        k = t.round()
        if values_are_checked(t):
            bad = ((t - k).abs() > NEAR) | (k > self.count)
            if bool(bad.any()):
                rule = f"a walk is known at its steps 0 … {self.count}"
                raise ValueError(f"{rule}; the time contains {shown(t[bad])}")
        return k.long()

    def kept(self, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`\log (\bar\alpha_t / \bar\alpha_s)`, for numbers of steps (B,)."""
        return self.log_kept[t] - self.log_kept[s]

    def noise(self, loc: Tensor, s: Tensor, t: Tensor) -> Law:
        """The law of loc + noise from step s to t, entry by entry."""
        raise self.unsolved("transition")

    def crowding(self, s: Tensor, t: Tensor) -> float:
        """How noise crowds at a point, as `Increment.crowding` says: from s to t, or in a step."""
        return math.inf

    def require_resolved(self, s: Tensor, t: Tensor, dtype: torch.dtype) -> None:
        e = self.crowding(s, t)
        lost = torch.finfo(dtype).eps ** e
        if lost > LOST:
            raise Unsolved(
                f"{lost:.1%} of the noise of a step is lost as states of size 1 are rounded to "
                f"{dtype}: {self.increment.name} noise is within r of one point with a chance "
                f"like r^{e:.2g}, so densities at states that were drawn mean nothing. Take "
                "larger steps, or float64"
            )

    def require_covering(self, estimate: Any, verb: str, options: tuple[Any, ...]) -> None:
        if not self.bounded or verb == "tilted":
            return
        name, known = self.increment.name, isinstance(estimate, Data | Atoms)
        if verb == "bridge" and not known:
            raise Unsolved(
                f"the bound of these steps is infinite: {name} noise has a support that depends "
                "on the data, and steps given a mean of them leave out states that the walk's own "
                "steps reach. Way out: the law of the data (Exact), steppers.Tilt for a Walk with "
                "a density and exponential moments, or increments on the whole line. Sampling "
                "needs no bound"
            )
        stays = verb == "shifted" and not options[0] and self.increment.fisher == math.inf
        if verb == "shifted" and not stays:
            raise Unsolved(
                f"the bound of shifted steps is infinite: {name} noise has a bounded support, and "
                "the same around another mean leaves out states that the walk's own steps reach. "
                "Way out: steppers.Tilt, or exact steps (Ancestral with Exact). Sampling needs no "
                "bound"
            )

    @property
    def bounded(self) -> bool:
        """Whether the noise is not on the whole line, but beyond a point or at some points."""
        bounded = getattr(self.increment, "means", REALS) != REALS
        return bounded or getattr(self.increment, "lattice", False)

    def still(self, x: Tensor, s: Tensor, t: Tensor) -> Still | None:
        """The atom of the noise from s to t, against x; None if it has none."""
        return None

    def width(self, s: Tensor, t: Tensor) -> Tensor:
        """A distance that the noise from s to t does not exceed."""
        raise self.unsolved("transition")

    def ends(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Between which numbers the noise from s to t lies, both (B,)."""
        far = torch.full_like(self.kept(s, t), math.inf)
        return -far, far

    def ends_times(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the increment times numbers ≥ 0; infinite ones carry no gradient."""
        of = lambda end: total * end if math.isfinite(end) else torch.full_like(total, end)
        low, high = (torch.where(total > 0, of(end), 0.0) for end in self.increment.means)
        return low, high

    def marginal(self, x_0: Tensor, t: Tensor) -> Distribution:
        k = self.index(one_time(t))
        return self._from(x_0, torch.zeros_like(k), k).to_event(x_0.dim() - 1)

    def transition(self, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        j, k = self.index(one_time(s, t)), self.index(one_time(t, s))
        return self._from(x, j, k).to_event(x.dim() - 1)

    def _from(self, x: Tensor, s: Tensor, t: Tensor) -> Law:
        return self.noise(along((self.kept(s, t) / 2).exp(), x) * x, s, t)

    def left(self, k: Tensor) -> Tensor:
        r""":math:`\log \bar\alpha_k`, (B,)."""
        return self.kept(torch.zeros_like(k), k)

    def spread(self, k: Tensor, x: Tensor) -> Tensor:
        r"""The scale of the noise at step k, against x."""
        return along((-torch.expm1(self.left(k))).sqrt(), x)

    def require_variance(self) -> None:
        """Raises where the noise has no variance.

        Raises:
            Unsolved: For stable noise.
        """

    def moments(self, x: Tensor, t: Tensor) -> Moments:
        r"""Of :math:`x_t` given the data; the variance has shape (B,), or that of x.

        Raises:
            Unsolved: Where the noise has no variance.
        """
        k = self.index(t)
        phi = (self.left(k) / 2).exp()
        return Moments(phi, torch.zeros_like(phi), self.spread(k, phi).square())

    def limit(self, shape: tuple[int, ...]) -> Distribution:
        raise Unsolved(
            f"a walk ends after its {self.count} steps and has no limit: prior(shape) is where "
            "sampling starts"
        )

    # -- estimates -----------------------------------------------------------------------------

    def mean(self, estimate: Any, x: Tensor, k: Tensor) -> Tensor:
        r""":math:`\mathbb{E}[x_0 \mid x_k]` from what is said of it."""
        a, d = along((self.left(k) / 2).exp(), x), self.spread(k, x)
        if isinstance(estimate, Data | Mean):
            return estimate.value
        if isinstance(estimate, Atoms):
            return estimate.average(estimate.atoms)
        if isinstance(estimate, Epsilon):
            return (x - d * estimate.value) / a
        if isinstance(estimate, Velocity):
            return (a * x - d * estimate.value) / (a**2 + d**2)
        raise Unsolved(
            f"of {self.increment.name} noise {type(estimate).__name__} does not say the mean of "
            "the data. Take Mean, Epsilon, Velocity or Exact; for a Walk a Score goes by "
            "steppers.Shift or Tilt, to first order in its steps"
        )

    def convert(self, estimate: Any, x: Tensor, t: Tensor, kind: type) -> Any:
        k = self.index(t)
        if kind is ScoreEstimate:
            return ScoreEstimate(self.score(estimate, x, t).gradient)
        mean = self.mean(estimate, x, k)
        a, d = along((self.left(k) / 2).exp(), x), self.spread(k, x)
        if kind is Mean:
            return Mean(mean)
        if kind is Epsilon:
            return Epsilon((x - a * mean) / d)
        if kind is Velocity:
            return Velocity((a * x - mean) / d)
        raise self.unsolved(f"conversion to {kind.__name__}")

    def score(self, estimate: Any, x: Tensor, t: Tensor) -> Score:
        if isinstance(estimate, ScoreEstimate):
            return Score(gradient=estimate.value)
        if isinstance(estimate, Data):
            law = lambda y: self.marginal(estimate.value, t).log_prob(y)
            return Score(gradient=gradient(law, x))
        if isinstance(estimate, Atoms):
            of = lambda a, y, at: self.score(Data(a), y, at).gradient
            return Score(gradient=self._over_atoms(of, estimate, x, t))
        raise self.unsolved(f"the score from {type(estimate).__name__}")

    def _over_atoms(
        self, value: Callable[..., Tensor], estimate: Atoms, x: Tensor, *times: Tensor
    ) -> Tensor:
        """The mean of a function of (x_0, x, *times) over a finite law of x_0."""
        count = len(estimate.atoms)
        data = estimate.atoms.repeat((len(x),) + (1,) * (x.dim() - 1))
        many = (v.repeat_interleave(count, 0) for v in (x, *times))
        each = value(data, *many).reshape(len(x), count, *x.shape[1:])
        weights = estimate.log_weights.exp().to(x.dtype)
        weights = weights.reshape(*weights.shape, *(1,) * (x.dim() - 1))
        return torch.where(weights > 0, weights * each, 0.0).sum(1)

    # -- bridges -------------------------------------------------------------------------------

    def bridge(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Distribution:
        j, k = self.index(s), self.index(t)
        x_0 = self.mean(estimate, x, k)
        certain = (j == 0) | (j == k)
        if not bool(certain.any()):
            return self._between(x_0, x, j, k).to_event(x.dim() - 1)
        ends = torch.where(along(j, x) > 0, x, x_0)
        if bool(certain.all()):
            return laws.point(ends)
        # certain rows ask for a step that is uncertain, from a state that the data lead to
        j, k = torch.where(certain, 1, j), torch.where(certain, 2, k)
        sure, drawn = along(certain, x, torch.bool), self._from(x_0, torch.zeros_like(k), k)
        law = self._between(x_0, torch.where(sure, drawn.sample(), x), j, k)
        point = pyro.Delta(ends, validate_args=False)
        return laws.Either(sure, point, law).to_event(x.dim() - 1)

    def _between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Law:
        """The law of x_s given x_0 and x_t, entry by entry."""
        if self.increment.lattice:
            raise Unsolved(
                f"the bridge of a walk of {self.increment.name} increments has as many atoms as "
                "there are paths; take an increment with a density"
            )
        return self._by_density(x_0, x, s, t)

    def _by_density(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Law:
        """The bridge that is drawn from its density on a grid.

        Raises:
            Unsolved: If float64 itself does not tell apart what the noise crowds into.
        """
        lost = torch.finfo(torch.float64).eps ** self.crowding(s, t)
        if lost > LOST:
            raise Unsolved(
                f"the bridge of {self.increment.name} noise, of which {lost:.1%} lies nearer to "
                "one point than float64 tells apart, is not drawn from its density; a LevyWalk of "
                "gamma or Laplace increments has bridges in closed form"
            )
        return (BoundedBridge if self.bounded else Bridge)(self, x_0, x, s, t)

    def linear(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r"""The best linear guess of :math:`x_s`: for many walks its mean given both ends."""
        kept_s, between = self.left(s), self.kept(s, t)
        whole = torch.expm1(self.left(t))
        to_data = (kept_s / 2).exp() * torch.expm1(between) / whole
        to_state = (between / 2).exp() * torch.expm1(kept_s) / whole
        return along(to_data, x) * x_0 + along(to_state, x) * x

    # -- families of steps back -----------------------------------------------------------------

    def step_mean(self, estimate: Any, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r""":math:`\mathbb{E}[x_s \mid x_t]`, as far as the estimate says it.

        Exact for the data and for finite laws. Of a mean of the data the linear guess is taken,
        of a score its first order, :math:`(x_t + v\, s(x_t)) / \sqrt{\bar\alpha_t/\bar\alpha_s}`
        with v the variance of the noise: both are exact for normal increments, and right in the
        limit of many steps for a `Walk` of others. Of noise that jumps the score is refused: of
        its steps all cumulants are of the order of v, however small they are.

        Raises:
            Unsolved: For a score, of noise that jumps.
        """
        if isinstance(estimate, Data):
            return self._mean_between(estimate.value, x, s, t)
        if isinstance(estimate, Atoms):
            return self._over_atoms(self._mean_between, estimate, x, s, t)
        kept = self.kept(s, t)
        if isinstance(estimate, ScoreEstimate):
            if self.jumps:
                raise Unsolved(
                    f"the score does not say the mean of a step of {self.increment.name} noise on "
                    "this process: small steps are rare jumps, whose mean given the state is no "
                    "derivative. Take Mean, Epsilon, Velocity or Exact; or a Walk of the same "
                    "increments, of which it is right in the limit of many steps"
                )
            moved = x + along(-torch.expm1(kept), x) * estimate.value
            return moved / along((kept / 2).exp(), x)
        return self.linear(self.mean(estimate, x, t), x, s, t)

    def _mean_between(self, x_0: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The mean of the bridge; at step 0 that is the data."""
        if not bool((s == 0).any()):
            return self._between(x_0, x, s, t).mean
        if bool((s == 0).all()):
            return x_0
        within = self._between(x_0, x, s.clamp(min=1), t.clamp(min=2)).mean
        return torch.where(along(s, x) > 0, within, x_0)

    def shifted(
        self, estimate: Any, x: Tensor, s: Tensor, t: Tensor, matched: bool
    ) -> Distribution:
        """The step back from t to s with noise of the walk's own shape."""
        j, k = self.index(s), self.index(t)
        mean = self.step_mean(estimate, x, j, k)
        ratio = along((self.kept(j, k) / 2).exp(), x)
        if not matched:
            mean = x / ratio + (mean - x / ratio) / self.increment.fisher
        return self.reflected(mean, ratio, j, k).to_event(x.dim() - 1)

    def reflected(self, mean: Tensor, ratio: Tensor, s: Tensor, t: Tensor) -> Law:
        """The law of mean − noise / ratio."""
        noise = self.noise(torch.zeros_like(mean), s, t)
        return laws.Affine(noise, mean, -1 / ratio)

    def natural(self, mean: Tensor, guessed: bool) -> Tensor:
        r"""The tilt of a mean; a mean that is a guess may lie anywhere.

        Where a guess comes near the ends of the support or leaves it the tilt goes on along its
        tangent: the law stays one of the family, and what it costs grows linearly.
        """
        low, high = self.increment.means
        if not guessed:
            return self.increment.natural(mean.clamp(low + EDGE, high - EDGE))
        eta = self.increment.natural(mean.clamp(KNEE * low, KNEE * high))
        if math.isfinite(low):
            eta = eta + self._tangent(low) * (mean - KNEE * low).clamp(max=0)
        if math.isfinite(high):
            eta = eta + self._tangent(high) * (mean - KNEE * high).clamp(min=0)
        return eta

    def _tangent(self, end: float) -> Tensor:
        """The slope of the tilt against the mean, near an end of the support."""
        knee = torch.tensor(KNEE * end, dtype=torch.float64)
        return gradient(self.increment.natural, knee).detach()

    def single(self, k: Tensor) -> bool:
        """Whether the noise at step k is one increment."""
        return False

    def decode(self, estimate: Any, x: Tensor, t: Tensor) -> Distribution:
        r"""Noise of the walk's shape around the mean; tilted, not shifted, off a bounded support.

        So the data that may have led here are never left out. Where nothing is tilted exactly the
        noise stays where it is, whatever the mean: :math:`x_0 = (x_t - n) / \sqrt{\bar\alpha_t}`.
        """
        k = self.index(t)
        a = along((self.left(k) / 2).exp(), x)
        width = self.spread(k, x) / a
        if not self.bounded:
            x_0 = self.mean(estimate, x, k)
            return self.mirrored(x_0, width.expand_as(x_0)).to_event(x.dim() - 1)
        if self.single(k) and not self.increment.lattice and self.increment.tilts:
            guessed = not isinstance(estimate, Data | Atoms)
            eta = self.natural((x / a - self.mean(estimate, x, k)) / width, guessed)
            tilted = self.increment.tilted(torch.zeros_like(x), torch.ones_like(x), eta)
            return laws.Affine(tilted, x / a, -width).to_event(x.dim() - 1)
        noise = self._from(torch.zeros_like(x), torch.zeros_like(k), k)
        return laws.Affine(noise, x / a, -1 / a).to_event(x.dim() - 1)

    def mirrored(self, loc: Tensor, scale: Tensor) -> Law:
        r"""The law of :math:`\mathrm{loc} - \mathrm{scale} \cdot \xi`."""
        if self.symmetric:
            return self.increment.law(loc, scale)
        law = self.increment.law(torch.zeros_like(loc), 1.0)
        return laws.Affine(law, loc, -scale)
