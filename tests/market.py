"""The market: a process for every engine and every value-branch, with example states.

Each entry passes every law of `dd.check`. A law that does not apply to an entry is named here with
its reason, and no other may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.distributions import Gamma, Laplace, Logistic, Normal

import discdiff as dd

NO_LIMIT = "nothing is forgotten in the end, or the law spreads for ever"
NOT_FOUND = "the engine knows no limit in closed form"
CERTAIN = "without chance a law is a point, with no density and no score"
NO_DECODER = "several species have no decoder: their bound is for heads that decay at 0"


@dataclass(frozen=True)
class Entry:
    """A process, example states, and the laws that do not apply with their reasons."""

    process: dd.Process
    x: Any
    without: dict[str, str] = field(default_factory=dict)


class Halve(dd.Jump):
    """At unit rate, half of the units leave."""

    def out(self, x):
        return (x // 2)[..., None], torch.ones_like(x)[..., None]

    def into(self, x):
        return torch.stack([2 * x, 2 * x + 1], -1), torch.ones(*x.shape, 2)


def rates(size: int, seed: int) -> torch.Tensor:
    """A rate matrix without symmetry."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.rand(size, size, generator=generator, dtype=torch.float64)
    Q = Q - Q.diag().diag()
    return Q - Q.sum(1).diag()


def varying(t: torch.Tensor) -> torch.Tensor:
    """Rates whose matrices at two times do not commute."""
    Q = rates(3, 1)
    jumps = (0.3 + torch.sin(3 * t) / 5)[:, None, None] * Q + (t / 4)[:, None, None] * Q.mT
    jumps = jumps - jumps.diagonal(dim1=-2, dim2=-1).diag_embed()
    return jumps - jumps.sum(-1).diag_embed()


def turning(t: torch.Tensor) -> torch.Tensor:
    """Drift matrices that do not commute at different times."""
    A = torch.tensor([[-1.0, 2.0], [0.0, -0.5]], dtype=torch.float64)
    return A + torch.sin(3 * t)[:, None, None] * A.mT


def stirring(t: torch.Tensor) -> torch.Tensor:
    """Noise that enters at the second coordinate first."""
    B = torch.tensor([[0.1, 0.0], [0.5, 1.0]], dtype=torch.float64)
    return B * (1 + t[:, None, None])


def spinning(t: torch.Tensor) -> torch.Tensor:
    """A skew matrix that grows."""
    return (1 + t)[:, None, None] * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def sinking(t: torch.Tensor) -> torch.Tensor:
    """A replacement law that moves from even to uneven."""
    share = (-t).exp().unsqueeze(-1)
    early, late = torch.tensor([[0.25] * 4, [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    return share * early + (1 - share) * late


def own_clocks(t: torch.Tensor) -> torch.Tensor:
    """Integrated rates of masking, a clock for each of three tokens."""
    return t.unsqueeze(-1) * torch.tensor([1.0, 0.5, 2.0]) + t.unsqueeze(-1) ** 2


reals = torch.tensor([-1.0, 0.5, 2.0])
pairs = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
counts = torch.tensor([0.0, 3.0, 6.0])
grids = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
species = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
shares = torch.tensor([[0.3], [0.6], [0.8]])
codes = torch.tensor([[0, 1], [2, 1], [0, 2]])
letters = torch.tensor([0, 1, 2])

triples = torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.0, 0.5]])
couples = torch.tensor([[[0.0, 1.0], [2.0, -1.0]], [[1.0, 1.0], [0.5, 0.0]]])

vp = dd.Linear(-0.5) + dd.Noise(1.0)
ve = dd.Noise(1.0)
mask = dd.Replace(dd.one_hot(3, 4))
chain = dd.RateMatrix([[-1.0, 1.0, 0.0], [0.5, -1.0, 0.5], [0.0, 2.0, -2.0]])
queue = dd.Death() + dd.Immigration(2.0)
swap = dd.Reaction([-1, 1], 1.0) + dd.Reaction([1, -1], 0.5)
leave = dd.Reaction([0, -1], 0.7)
arrive = dd.Reaction([1, 0], 0.03)
merge = dd.Reaction([-2], lambda n: n[..., 0] * (n[..., 0] - 1) / 2)
decay = dd.Reaction([-1], 1.0)
damped = dd.Linear([[0.0, 4.0], [-1.0, -4.0]]) + dd.Noise([[0.0], [2**0.5]])
third = dd.Langevin(
    [[0.0, -1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]],
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    torch.eye(3),
)
aside = torch.distributions.Normal(0.0, 0.3)
each = torch.tensor([[[-1.0, 0.5], [0.0, -2.0]], [[-0.5, 1.0], [-1.0, -0.5]]])
linear, fast = dd.clock.Linear(0.1, 20.0), dd.clock.LogLinear()
no_limit = {"limit": NO_LIMIT}
no_decoder = {"decoder": NO_DECODER}
not_found = {"limit": NOT_FOUND}

still = dict.fromkeys(("score", "heads", "additivity", "decoder", "entropy"), CERTAIN)
certain = dict.fromkeys(
    ("Dynkin", "Chapman–Kolmogorov", "normalisation", "limit", "bridge", "combinators", "prior"),
    CERTAIN,
)

MARKET = {
    # Gaussian
    "vp": Entry(vp.on(linear), reals),
    "vp in own time": Entry(vp, reals),
    "drift and shift": Entry((dd.Linear(-1.0, 0.5) + dd.Noise(0.7)).on(dd.clock.Cosine()), reals),
    "ve": Entry(ve.on(dd.clock.Geometric(0.01, 5.0)), reals, no_limit),
    "diagonal": Entry(
        (dd.Linear([-0.5, -1.0]) + dd.Noise([1.0, 0.5])).on(dd.clock.Constant(3.0)), pairs
    ),
    "diagonal, shifted": Entry(
        (dd.Linear(-0.5, [1.0, 2.0]) + dd.Noise([1.0, 0.5])).on(dd.clock.Constant(3.0)), pairs
    ),
    "diagonal, no limit": Entry(
        (dd.Linear([-0.5, 0.2]) + dd.Noise(1.0)).on(dd.clock.Constant(1.0)), pairs, no_limit
    ),
    "varying drift": Entry(
        (dd.Linear(lambda t: -1 - t) + dd.Noise(lambda t: 1 + t)).on(dd.clock.Constant(1.0)),
        reals[:2],
        no_limit,
    ),
    "no noise": Entry(dd.Linear(-1.0).on(fast), reals, certain | still),
    "vectors without noise": Entry(dd.Linear([[0.0, 1.0], [-1.0, 0.0]]), pairs, certain | still),
    "nothing moves": Entry((0.0 * dd.Noise(1.0)).on(linear), reals, certain | still),
    "no unit moves": Entry(dd.Ehrenfest(7, 0.0, 0.0).on(linear), counts, no_limit | still),
    "arrivals alone": Entry(dd.Immigration(1.5).on(dd.clock.Constant(1.0)), counts, no_limit),
    "no arrivals": Entry(0.0 * dd.Death() + dd.Immigration(0.0), counts, no_limit | still),
    # vectors
    "damped lift": Entry(damped.on(dd.clock.Constant(4.0)).lift(aside), reals),
    "damped lift in own time": Entry(damped.lift(aside), reals),
    "damped lift of two entries": Entry(damped.on(linear).lift(aside), pairs),
    "third order": Entry(third.on(dd.clock.Linear(0.1, 10.0)), triples),
    "third order lift": Entry(
        third.on(dd.clock.Cosine()).lift(
            torch.distributions.MultivariateNormal(
                torch.tensor([0.2, -0.1]), torch.tensor([[0.3, 0.1], [0.1, 0.2]])
            )
        ),
        reals,
    ),
    "langevin in own time": Entry(
        dd.Langevin([[0.0, -1.0], [1.0, 0.0]], torch.diag(torch.tensor([0.1, 1.0])), torch.eye(2)),
        pairs,
    ),
    "shifted vectors": Entry(
        (2.0 * dd.Linear([[-1.0, 0.5], [-0.5, -1.0]], [0.3, -1.0]) + 0.5 * dd.Noise(1.0)).on(
            linear
        ),
        pairs,
    ),
    "drifts that do not commute": Entry(
        (dd.Linear(turning) + dd.Noise(stirring)).on(dd.clock.Constant(1.0)), pairs, no_limit
    ),
    "drifts that do not commute, far out": Entry(
        (dd.Linear(turning) + dd.Noise(stirring)).on(dd.clock.Constant(20.0)), pairs, no_limit
    ),
    "lift that does not commute": Entry(
        (dd.Linear(turning) + dd.Noise(stirring)).on(dd.clock.Constant(1.0)).lift(aside),
        reals,
        no_limit,
    ),
    "langevin that spins up": Entry(
        dd.Langevin(spinning, torch.eye(2), torch.diag(torch.tensor([1.0, 0.25]))).on(
            dd.clock.Constant(1.0)
        ),
        pairs,
        no_limit,
    ),
    "matrices per entry": Entry(
        (dd.Linear(each) + dd.Noise(torch.eye(2))).on(dd.clock.Constant(2.0)), couples
    ),
    "lift with matrices per entry": Entry(
        (dd.Linear(each) + dd.Noise(torch.eye(2))).on(dd.clock.Constant(2.0)).lift(aside), pairs
    ),
    "noise integrated": Entry(
        (dd.Linear([[0.0, 1.0], [0.0, 0.0]]) + dd.Noise([[0.0], [1.0]])).on(
            dd.clock.Constant(3.0)
        ),
        pairs,
        no_limit,
    ),
    # replacement
    "masked": Entry(mask.on(fast), codes),
    "masked in own time": Entry(mask, codes),
    "uniform": Entry(dd.Replace(torch.full((4,), 0.25)).on(fast), codes),
    "replaced": Entry(dd.Replace(torch.tensor([0.1, 0.2, 0.7])).on(dd.clock.Cosine()), codes),
    "replaced, with a zero": Entry(dd.Replace(torch.tensor([0.4, 0.0, 0.6])).on(fast), codes),
    "two replacements": Entry((mask + 0.5 * dd.Replace(torch.full((4,), 0.25))).on(fast), codes),
    # structures
    "ring": Entry(dd.Ring(5).on(fast), codes),
    "one way round": Entry(dd.Increments(4, [0.0, 1.0, 0.0, 0.0]).on(dd.clock.Cosine()), codes),
    "even steps": Entry(
        dd.Increments(4, [0.0, 0.0, 1.0, 0.0]).on(dd.clock.Constant(2.0)), codes, no_limit
    ),
    "reflecting": Entry((3.0 * dd.Reflecting(5)).on(fast), codes),
    "birth and death": Entry(dd.BirthDeath([0.1, 0.4, 0.3, 0.2]).on(fast), codes),
    "tree": Entry(dd.Clusters([[0, 0, 0, 0], [0, 0, 1, 1]]).on(fast), codes),
    "groves": Entry(dd.Clusters([[0, 0, 1, 1]]).on(dd.clock.Constant(2.0)), codes, no_limit),
    "two hops": Entry(
        dd.LowRank([[1.0, 0], [0.5, 0.5], [0, 1]], [[0.5, 0], [0.3, 0.2], [0.2, 0.8]]).on(fast),
        codes,
    ),
    "masking each": Entry(dd.Masking([1.0, 2.0, 0.5]).on(fast), codes),
    "masking on clocks of their own": Entry(
        dd.Masking(own_clocks).on(dd.clock.Constant(2.0)), codes
    ),
    "killed walk": Entry(dd.Killing(dd.Reflecting(3)).on(fast), codes),
    "octave and class": Entry(
        dd.Kronecker(dd.Reflecting(2), dd.Replace(torch.tensor([0.5, 0.3, 0.2]))).on(fast), codes
    ),
    "sinking law": Entry(dd.Interpolate(sinking).on(dd.clock.Constant(2.0)), codes),
    "graph": Entry(
        dd.Sparse(torch.tensor([[0, 1.0, 0], [0, 0, 2.0], [0.5, 0, 0]])).on(fast), codes
    ),
    # dense rate matrices
    "chain": Entry(chain.on(fast), codes),
    "chain in own time": Entry(chain, letters),
    "absorbing chain": Entry(
        dd.RateMatrix([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [0.0, 0.0, 0.0]]).on(fast), letters
    ),
    "split chain": Entry(
        dd.RateMatrix([[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]).on(fast),
        letters,
        no_limit,
    ),
    "chain and replacement": Entry(
        (chain + dd.Replace(torch.tensor([0.1, 0.2, 0.7]))).on(fast), letters
    ),
    "coupled sites": Entry(
        dd.RateMatrix(rates(6, 0), sites=(2, 3)).on(fast), torch.tensor([[0, 1], [1, 2], [0, 2]])
    ),
    "varying chain": Entry(dd.RateMatrix(varying).on(dd.clock.Constant(1.0)), letters, no_limit),
    # counts
    "blackout": Entry(dd.Death().on(dd.clock.Logistic(15.0)), counts),
    "blackout, two entries": Entry(dd.Death().on(dd.clock.Logistic(15.0)), grids),
    "death in own time": Entry(dd.Death(), counts),
    "immigration and death": Entry(queue.on(fast), counts),
    "immigration and death in own time": Entry(queue, counts),
    "arrivals of their own rate": Entry(
        (dd.Death() + dd.Immigration([0.7, 0.2])).on(fast), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    ),
    "arrivals in one entry": Entry(
        dd.Death() + dd.Immigration([0.7, 0.0]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    ),
    "births and arrivals of their own rate": Entry(
        (dd.Birth() + 2.0 * dd.Death() + dd.Immigration([1.0, 0.0])).on(dd.clock.Constant(1.0)),
        torch.tensor([[0.0, 1.0]]),
    ),
    "births": Entry(dd.Birth().on(dd.clock.Constant(0.7)), counts, no_limit),
    "births and immigration": Entry(
        (dd.Birth() + dd.Immigration(0.5)).on(dd.clock.Constant(0.7)), counts, no_limit
    ),
    "births and deaths": Entry((dd.Birth() + 2.0 * dd.Death()).on(dd.clock.Constant(1.0)), counts),
    "births, deaths and immigration": Entry(
        (dd.Birth() + 2.0 * dd.Death() + dd.Immigration(1.0)).on(dd.clock.Constant(1.0)), counts
    ),
    "ehrenfest": Entry(dd.Ehrenfest(7).on(fast), counts),
    "ehrenfest in own time": Entry(dd.Ehrenfest(7, 0.5, 1.5), counts),
    "particles": Entry((swap + leave).on(fast), species, no_decoder | not_found),
    "particles with arrivals": Entry(
        (swap + leave + arrive).on(dd.clock.Constant(1.0)),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        no_decoder | not_found,
    ),
    "halving": Entry(Halve(), counts),
    "halving on a clock": Entry(Halve().on(fast), counts),
    "halving and death": Entry((Halve() + dd.Death()).on(fast), counts),
    "merging": Entry(
        (merge + decay).on(dd.clock.Constant(1.0)),
        torch.tensor([[1.0], [4.0]]),
        no_decoder,
    ),
    # combinators
    "a faster term": Entry((2.5 * queue).on(dd.clock.Constant(1.0)), counts),
    "scaled": Entry(
        ve.on(dd.clock.Geometric(0.01, 5.0)).scaled(lambda t: 1 / (1 + t)), reals, no_limit
    ),
    "pushed": Entry(
        vp.on(linear).push(torch.distributions.transforms.ExpTransform()), torch.tensor([0.5, 2.0])
    ),
    "given": Entry(
        mask.on(fast).given((torch.tensor([1, 0]), torch.tensor([True, False]))),
        torch.tensor([[1, 0], [1, 2]]),
    ),
    "mixture": Entry(
        dd.Mixture([0.3, 0.7], vp.on(linear), (dd.Linear(-2.0) + ve).on(linear)),
        {"label": torch.tensor([0, 1, 1]), "state": torch.tensor([0.5, 2.0, 1.0])},
    ),
    "table": Entry(
        dd.Product(income=vp.on(linear), job=mask.on(fast), visits=dd.Death().on(fast)),
        {
            "income": torch.tensor([-1.0, 0.5]),
            "job": torch.tensor([0, 2]),
            "visits": torch.tensor([0.0, 3.0]),
        },
    ),
    "scaled lift": Entry(
        damped.on(dd.clock.Constant(4.0)).lift(aside).scaled(lambda t: 1 / (1 + t)), reals
    ),
    "table with a lift": Entry(
        dd.Product(income=damped.on(linear).lift(aside), job=mask.on(fast)),
        {"income": torch.tensor([-1.0, 0.5]), "job": torch.tensor([0, 2])},
    ),
    "sites and counts": Entry(
        dd.Product({"a b": chain, "n": dd.Ehrenfest(4)}).on(fast),
        {"a b": torch.tensor([[0, 1], [2, 2]]), "n": torch.tensor([4.0, 1.0])},
    ),
}


def steps(count: int, size: int, seed: int) -> torch.Tensor:
    """One-step kernels without symmetry."""
    generator = torch.Generator().manual_seed(seed)
    Q = 0.1 + torch.rand(count, size, size, generator=generator, dtype=torch.float64)
    return Q / Q.sum(-1, keepdim=True)


RUN = [0.2, 0.5, 1.0]
BETAS = [0.1, 0.2, 0.3, 0.25]
bursts = dd.increments.CompoundPoisson(2.0, torch.distributions.Laplace(0.0, 1.0), 0.5)
jumping = dd.Linear(-0.7) + dd.Levy(bursts)
heavy = dd.StableWalk(1.5, BETAS)
latent = torch.tensor([[2.0, 0.5], [30.0, 1.0], [0.1, 4.0], [1.0, 1.0]], dtype=torch.float64)
DENSE = "continuous states are not enumerated: a decoder ends their bound"
FROM_DATA = "a single step leads from data, which have no density"
dense = {"bound": DENSE}
one_step = {"Chapman–Kolmogorov": CERTAIN, "bridge": CERTAIN, "indices": FROM_DATA}

# Chains, which are held to the laws of their steps.
BETAS = [0.1, 0.3, 0.2]
NO_STEP = {"one step": "the walk is not declared by its steps forward"}
NO_CHAIN = {"steps through steps": "all states tell of the variance that they share"}
GIVEN_DATA = {"indices": "the steps of the chain depend on the data: it has no transition"}
NO_PATH = {"indices": "the walk has no transition: it is declared by its steps back"}

CHAINS = {
    "normal steps": Entry(dd.Walk(Normal(0.0, 1.0), BETAS), reals, dense),
    "laplace steps": Entry(dd.Walk(Laplace(0.0, 1.0), BETAS), reals, dense),
    "gamma clock": Entry(dd.LevyWalk(Gamma(2.0, 1.0), BETAS), reals, dense | NO_STEP),
    "logistic clock": Entry(dd.LevyWalk(Logistic(0.0, 1.0), BETAS), reals, dense | NO_STEP),
    "logistic marginals": Entry(
        dd.MarginalWalk(Logistic(0.0, 1.0), BETAS), reals, dense | NO_STEP
    ),
    "laplace steps back": Entry(
        dd.ReverseWalk(Laplace(0.0, 1.0), BETAS), reals, dense | NO_STEP | NO_PATH
    ),
    "beta diffusion": Entry(
        dd.beta_chain.BetaChain([0.9, 0.5, 0.1], 10.0), shares, dense | GIVEN_DATA
    ),
    "beta star": Entry(
        dd.star.StarChain(dd.star.BetaStar([0.1, 0.3, 0.7], [20.0, 10.0, 4.0])),
        shares,
        dense | GIVEN_DATA,
    ),
    "coins": Entry(
        dd.LatticeWalk(dd.increments.Rademacher(), 5, 0.5),
        torch.tensor([[0.0], [1.0], [-2.0]]),
        {"bound": DENSE},
    ),
    "three points": Entry(
        dd.LatticeWalk(dd.increments.ThreePoint(), 4),
        torch.tensor([[0.0], [3**0.5]], dtype=torch.float64),
        {"bound": DENSE},
    ),
    "one variance": Entry(
        dd.SharedWalk(torch.distributions.StudentT(5.0), BETAS),
        shares,
        dense | GIVEN_DATA | {"divergence": "two elliptical laws have none", **NO_CHAIN},
    ),
    "normal star": Entry(
        dd.star.StarChain(dd.star.NormalStar([0.9, 0.6, 0.2])), reals, dense | GIVEN_DATA
    ),
    "a kernel each": Entry(dd.MatrixChain(steps(5, 3, 0)), codes, no_limit),
    "one kernel": Entry(dd.MatrixChain(steps(1, 3, 1)[0], steps=7), codes),
    "one step": Entry(dd.MatrixChain(steps(1, 4, 2)), letters),
    "absorbing": Entry(
        dd.MatrixChain(torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.0, 0.0, 1.0]]), steps=4),
        letters,
        {"bound": "the prior is the absorbing state, which some have not reached"},
    ),
    "vp": Entry(vp.on(linear).at(RUN), reals, dense),
    "vp in own time": Entry(vp.at([0.5, 2.0]), reals, dense),
    "damped lift": Entry(damped.on(dd.clock.Constant(4.0)).lift(aside).at(RUN), reals, dense),
    "masked": Entry(mask.on(fast).at(RUN), codes),
    "rate matrix": Entry(chain.on(fast).at(RUN), codes),
    "jump diffusion": Entry(jumping.on(dd.clock.Constant(2.0)).at(RUN), reals, dense),
    "stable": Entry(heavy, reals, dense),
    "stable, normal": Entry(dd.StableWalk(2.0, BETAS), reals, dense),
    "stable, given variances": Entry(heavy.mixed(latent), pairs, {**dense, **no_limit}),
    "blackout": Entry(dd.Death().on(dd.clock.Logistic(15.0)).at(RUN), counts),
    "queue": Entry(queue.on(dd.clock.Constant(2.0)).at(RUN), counts),
    "table": Entry(
        dd.Product(job=mask.on(fast), visits=dd.Death().on(fast)).at(RUN),
        {"job": torch.tensor([0, 2]), "visits": torch.tensor([0.0, 3.0])},
    ),
}
