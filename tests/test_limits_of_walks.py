"""The limits of walks of many steps, with the figures that are known for a mixture on the line.

A walk of fresh noise alone, x_k = x_{k−1} + √h ξ_k for k h ≤ 1, has DDPM's means and variances as
y_k = x_k / √(1 + k h), with β_k = h / (1 + k h). Its figures are of x.
"""

import math

import numpy as np
import pyro.distributions as pyro
import pytest
import torch
import torch.distributions as td

import discdiff as dd
from discdiff.estimates import Mean, Score
from discdiff.increments import Rademacher, increment

LAWS = {
    "normal": td.Normal(0.0, 1.0),
    "laplace": td.Laplace(0.0, 1.0),
    "logistic": pyro.Logistic(0.0, 1.0),
    "uniform": td.Uniform(0.0, 1.0),
    "rademacher": Rademacher(0.0, 1.0),
    "exponential": td.Exponential(torch.tensor(1.0)),
}
WIDE = (0.45, 0.5)  # of the two parts of the mixture, around −1.1 and 1.1
NARROW = (0.35, 0.45)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def betas(count: int) -> list[float]:
    """Those of fresh noise of variance 1 / count in each step."""
    return [1 / (count + k) for k in range(1, count + 1)]


def diffused(y: torch.Tensor, time: float, widths=WIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Density and score of the mixture plus normal noise of variance ``time``, scaled as y is."""
    kept = 1 / (1 + time)
    mean = math.sqrt(kept) * torch.tensor([-1.1, 1.1])
    variance = kept * (torch.tensor(widths) ** 2 + time)
    gap = y.unsqueeze(-1) - mean
    p = (-(gap**2) / (2 * variance)).exp() / (2 * math.pi * variance).sqrt() / 2
    return p.sum(-1), -(p * gap / variance).sum(-1) / p.sum(-1)


def energy() -> float:
    """∫ E|s|² dt along the diffusion of x, by Simpson's rule."""
    y, times = torch.linspace(-9, 9, 4001), torch.linspace(0, 1, 65)
    each = []
    for time in times.tolist():
        p, s = diffused(y, time)
        each.append(torch.trapezoid(p * s**2, y) / (1 + time))  # the score of x
    weights = torch.ones(65)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return float((torch.stack(each) * weights).sum() / 64 / 3)


def gaps(name: str, count: int, families) -> list[float]:
    """The KL divergences of the exact steps back from those of families, summed over all steps.

    Deterministic: densities live on a grid, and the estimate says the exact mean of each step.
    """
    walk = dd.Walk(LAWS[name], betas(count))
    process, engine = walk.process, walk.steps.engine
    every = 12 if name == "laplace" else 6  # kinks need a finer grid
    y = torch.linspace(-6, 6, 160 * every + 1)
    h = float(y[1] - y[0])
    p, ends = diffused(y, 0.0)[0], y[::every].unsqueeze(1)
    found = torch.zeros(len(families))
    for k in range(1, count + 1):
        forward = walk.transition(y.reshape(-1, 1, 1).expand(-1, len(y), 1), k - 1, k)
        kernel = forward.base_dist.log_prob(y.reshape(1, -1, 1))[..., 0].exp()  # row to column
        kernel = kernel / (kernel.sum(1, keepdim=True) * h)
        joint = p.unsqueeze(1) * kernel[:, ::every]
        back = joint / joint.sum(0)
        mean = (back * y.unsqueeze(1)).sum(0).unsqueeze(1)
        p = (p @ kernel) * h
        step = torch.tensor([k])
        rest = engine.linear(torch.zeros_like(ends), ends, step - 1, step)
        slope = engine.linear(torch.ones_like(ends), ends, step - 1, step) - rest
        t, s = (torch.full((len(ends),), v / count) for v in (k, k - 1))
        for n, family in enumerate(families):
            law = family.law(process, Mean((mean - rest) / slope), ends, t, s).base_dist
            log_q = law.log_prob(y.reshape(-1, 1, 1))[..., 0]
            log_q = log_q - (log_q.exp().sum(0) * h).log()
            each = torch.where(back > 1e-30, back * ((back / h).log() - log_q), 0.0).sum(0)
            found[n] += (p[::every] * each).sum() * h * every
    return found.tolist()


LOST = {  # nats that shifts and tilts lose at 8, 16, 32, 64 steps
    "laplace": [(0.246, 0.297, 0.350, 0.395), (0.152, 0.095, 0.054, 0.029)],
    "logistic": [(0.0957, 0.0730, 0.0614, 0.0556), (0.119, 0.069, 0.037, 0.0196)],
    "normal": [(0.0875, 0.0474, 0.0246, 0.0126), (0.0875, 0.0474, 0.0246, 0.0126)],
}


@pytest.mark.parametrize("name", LOST)
def test_what_shifts_lose_and_tilts_do_not(name):
    """(C12) (I − 1)/2 ∫ g² E|s|² in the limit, by Richardson's rule in N^{−1/2}; O(1/N)."""
    counts, fisher = (8, 16, 32, 64), increment(LAWS[name]).fisher
    found = [gaps(name, n, [dd.steppers.Shift(), dd.steppers.Tilt()]) for n in counts]
    shift, tilt = zip(*found, strict=True)
    assert shift == pytest.approx(LOST[name][0], rel=5e-3)
    assert tilt == pytest.approx(LOST[name][1], rel=1.5e-2)  # of two digits
    assert 1.5 < tilt[0] / tilt[1] < tilt[1] / tilt[2] < tilt[2] / tilt[3] < 2  # towards halves
    if fisher > 1:
        powers = np.vander([n**-0.5 for n in counts[1:]], increasing=True)
        limit = np.linalg.solve(powers, shift[1:])[0]
        goal = (fisher - 1) / 2 * energy()
        assert limit == pytest.approx(goal, rel=0.02)
        assert shift[3] > 20 * abs(limit - goal)  # so the gap does not tend to 0


def test_what_shifts_lose_in_the_limit():
    """(I − 1)/2 of the energy: 0.517 for Laplace increments, 0.0499 for logistic ones."""
    assert energy() / 2 == pytest.approx(0.517, abs=5e-4)
    assert (math.pi**2 / 9 - 1) / 2 * energy() == pytest.approx(0.0499, abs=5e-5)


FAR = {  # Kolmogorov's distance of the data given the end from those of the diffusion, by steps
    "laplace": {8: 1.14e-2, 16: 5.77e-3, 32: 2.90e-3, 64: 1.46e-3},
    "uniform": {8: 4.84e-3, 64: 5.87e-4},
    "logistic": {8: 4.52e-3, 64: 5.82e-4},
    "exponential": {8: 5.31e-2, 64: 1.84e-2},
}


@pytest.mark.parametrize("name", FAR)
def test_the_data_given_the_end_tend_to_the_diffusions(name):
    """(C9) The mean over four ends: like 1/N, like 1/√N for skewed increments."""
    x, ends = torch.linspace(-4, 4, 8001), torch.tensor([-1.0, 0.0, 1.0, 2.0]).unsqueeze(1)
    prior, root = diffused(x, 0.0)[0], math.sqrt(0.5)

    def posterior(noise: torch.Tensor) -> torch.Tensor:
        p = (prior * noise).cumsum(1)
        return p / p[:, -1:]

    goal = posterior(td.Normal(x, 1.0).log_prob(ends).exp())
    found = {}
    for count in FAR[name]:
        walk = dd.Walk(LAWS[name], betas(count))
        at = walk.marginal(x.expand(len(ends), -1).reshape(-1, 1), count)
        y = root * ends.expand(-1, len(x)).reshape(-1, 1)
        noise = at.log_prob(y).exp().reshape(len(ends), -1)
        found[count] = float((posterior(noise) - goal).abs().amax(1).mean())
    assert found == pytest.approx(FAR[name], rel=5e-3)
    order = math.log(found[8] / found[64]) / math.log(8)
    assert order == pytest.approx(0.5 if name == "exponential" else 1, abs=0.02)


WRONG = {  # Wasserstein's distance of what is drawn from the data, by steps
    "normal": {4: 0.156, 8: 0.0840, 16: 0.0419, 32: 0.0206},
    "laplace": {4: 0.127, 8: 0.0669, 16: 0.0335, 32: 0.0166},
    "uniform": {4: 0.179, 8: 0.0939, 16: 0.0459, 32: 0.0224},
    "logistic": {4: 0.144, 8: 0.0768, 16: 0.0384, 32: 0.0190},
    "rademacher": {4: 0.204, 8: 0.102, 16: 0.0488, 32: 0.0235},
    "exponential": {4: 0.145, 8: 0.0875, 16: 0.0565, 32: 0.0386},
}


def drawn(name: str, count: int, points: int) -> float:
    """W₁ after steps of shifts with the diffusion's score, by distribution functions on a grid."""
    law = LAWS[name]
    if name == "exponential":  # its long tail is to the right in the steps back
        law = td.TransformedDistribution(law, [td.AffineTransform(0.0, -1.0)])
    process = dd.Walk(law, betas(count)).process
    y = torch.linspace(-5, 5, points)
    h = float(y[1] - y[0])
    p = diffused(y, 1.0, NARROW)[0]
    for k in range(count, 0, -1):
        t, s = (torch.full((points,), v / count) for v in (k, k - 1))
        said = Score(diffused(y, k / count, NARROW)[1].unsqueeze(1))
        step = dd.steppers.Shift().law(process, said, y.unsqueeze(1), t, s).base_dist
        edges = torch.cat([y - h / 2, y[-1:] + h / 2])
        below = step.cdf(edges.reshape(-1, 1, 1))[..., 0] @ p * h
        p = below.diff() / h
    goal = diffused(y, 0.0, NARROW)[0]
    return float(((p - goal).cumsum(0) * h).abs().sum() * h)


@pytest.mark.parametrize("name", WRONG)
def test_shifted_walks_back_draw_the_data(name):
    """(C10) Wasserstein's distance with the exact score of the diffusion."""
    found = {count: drawn(name, count, 900) for count in WRONG[name]}
    error = 3e-2 if name == "rademacher" else 1e-2  # whose steps of ±√h fall between grid points
    assert found == pytest.approx(WRONG[name], rel=error)


def bounds_gap(reverse) -> float:
    """Nats above the entropy of the bound of five steps of a Laplace walk, from its own end.

    The steps back have the exact mean and variance of each step, and this law.
    """
    walk = dd.Walk(LAWS["laplace"], torch.linspace(0.1, 0.3, 5).tolist())
    x = torch.linspace(-6, 6, 1201)
    h, total = float(x[1] - x[0]), 0.0
    weight, mean, width = torch.tensor([[0.4, -1.2, 0.3], [0.6, 0.8, 0.4]]).T
    p = td.Normal(mean, width).log_prob(x.unsqueeze(1)).exp() @ weight
    for k in range(1, 6):
        forward = walk.transition(x.reshape(-1, 1, 1).expand(-1, len(x), 1), k - 1, k)
        kernel = forward.base_dist.log_prob(x.reshape(1, -1, 1))[..., 0].exp()
        kernel = kernel / (kernel.sum(1, keepdim=True) * h)
        joint = p.unsqueeze(1) * kernel * h
        p = joint.sum(0)
        back = joint / p
        center = x @ back
        deviation = ((x.unsqueeze(1) - center).square() * back).sum(0).sqrt()
        log_q = reverse(center, deviation).log_prob(x.unsqueeze(1))
        each = torch.where(back > 1e-30, back * ((back / h).log() - log_q), 0.0).sum(0)
        total += float((p * each).sum() * h)
    return total


def test_few_steps_of_laplace_noise_are_best_matched_in_shape():
    """(C20) 0.226 nats with Laplace steps back, 0.331 with normal ones."""
    laplace = bounds_gap(lambda mean, std: td.Laplace(mean, std / math.sqrt(2)))
    assert laplace == pytest.approx(0.226, abs=1e-3)
    assert bounds_gap(td.Normal) == pytest.approx(0.331, abs=1e-3)


@pytest.mark.parametrize(
    "chain",
    [
        dd.LevyWalk(td.Laplace(0.0, 1.0), [0.2, 0.4]),
        dd.MarginalWalk(td.Laplace(0.0, 1.0), [0.2, 0.4]),
        dd.ReverseWalk(td.Laplace(0.0, 1.0), [0.2, 0.4]),
        dd.StableWalk(1.5, [0.2, 0.4]),
        dd.zoo.ddpm().at([0.5, 1.0]),
    ],
    ids=lambda chain: type(chain).__name__,
)
def test_limits_of_shifted_steps_are_those_of_a_walk_only(chain):
    head = dd.heads.Score(lambda x, t: -x)
    with pytest.raises(dd.Unsolved, match="those of a Walk"):
        dd.families.shift_gaps(chain, head, torch.zeros(2, 1))


def test_the_coin_of_the_steps_back_tends_to_the_score():
    """(C11) Half the logit of the last step of a coin walk, over its size, is −∇ log p: O(h)."""
    x = torch.linspace(-3, 3, 601).unsqueeze(1)
    score = diffused(x[:, 0] / math.sqrt(2), 1.0)[1] / math.sqrt(2)
    errors = []
    for count in (16, 64, 256):
        size = count**-0.5
        walk = dd.LatticeWalk(Rademacher(), count, size)
        up = torch.arange(count + 1.0)
        chance = td.Binomial(count, torch.tensor(0.5)).log_prob(up).exp()
        starts = x - (2 * up - count) * size
        weights = chance * diffused(starts, 0.0)[0]
        mean = (weights * starts).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        t, s = (torch.full((len(x),), v / count) for v in (count, count - 1))
        law = dd.steppers.Ancestral().law(walk.process, Mean(mean), x, t, s)
        logit = law.log_prob(x - size) - law.log_prob(x + size)
        errors.append(float((logit / 2 / size + score).abs().max()))
    assert errors[1:] == pytest.approx([2.0e-2, 5.0e-3], rel=0.03)
    assert 4 < errors[0] / errors[1] < 4.5 and errors[1] / errors[2] == pytest.approx(4, abs=0.1)
