"""Sums of waves, characteristic functions by quadrature and what tables leave out."""

import math

import mpmath
import pytest
import torch
from torch.distributions import Beta, Laplace, Normal

import discdiff as dd
from discdiff.increments import Rademacher, increment
from discdiff.increments.numeric import FOLLOWED
from discdiff.numerics.fourier import LEAST, MOST, frequencies
from discdiff.numerics.waves import FEW, PIECE, waves

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("count", [1, FEW + 1, 1000])
@pytest.mark.parametrize("points", [3, PIECE // 20])
def test_equidistant_frequencies_are_summed_as_others_are(count, points):
    x, w = torch.randn(points), torch.rand(points) * (1 + 2j) / points
    u = 0.37 * torch.arange(count)
    goal = torch.stack([(w * (1j * v * x).exp()).sum() for v in u])
    assert float((waves(u, x, w) - goal).abs().max()) < 1e-13
    assert float((waves(u.flip(0), x, w) - goal.flip(0)).abs().max()) < 1e-13


def test_frequencies_that_are_not_equidistant_are_taken_as_they_are():
    u, x = torch.linspace(0, 9, 200), torch.linspace(-1, 2, 7)
    u[77] += 1e-6
    goal = (1j * u.unsqueeze(1) * x).exp().sum(1)
    assert float((waves(u, x, torch.ones(7)) - goal).abs().max()) < 1e-13


@pytest.mark.parametrize("a, b", [(2, 3), (4, 5)])
def test_the_characteristic_function_of_a_beta_law_is_kummers(a, b):
    r"""Also at frequencies of which there are many, in two rows, and far beyond any followed."""
    law = Beta(torch.tensor(float(a)), torch.tensor(float(b)))
    each, mean, std = increment(law), float(law.mean), float(law.stddev)
    steps = 0.3 * torch.arange(2000) * torch.tensor([[1.0], [0.7]])
    found = each.cf(steps)
    for row, column in ((0, 0), (0, 1), (1, 40), (0, 333), (1, 1999), (0, 1999)):
        u = float(steps[row, column])
        goal = mpmath.hyp1f1(a, a + b, 1j * u / std) * mpmath.exp(-1j * u * mean / std)
        assert abs(complex(found[row, column]) - complex(goal)) < 3e-14, u
    assert float(steps.max()) > 5 * FOLLOWED


def test_what_is_left_out_is_bounded_without_looking_far():
    """φ of two Laplace increments falls like u⁻⁴; nothing beyond ten times the last is asked."""
    asked = []
    reach, c2 = 30.0, 0.5

    def log_cf(u):
        asked.append(float(u.max()))
        return (-2 * torch.log1p(c2 * u**2 / 2)).to(torch.complex128)

    count, error = frequencies(log_cf, reach)
    last = count * math.pi / reach
    assert count == MOST and max(asked) <= 10 * last * (1 + 1e-12)
    goal = float(mpmath.quad(lambda u: (1 + c2 * u**2 / 2) ** -2, [last, 10 * last, mpmath.inf]))
    assert goal / math.pi <= error < 1.1 * goal / math.pi


def test_a_law_that_ends_has_nothing_left_out_and_one_of_atoms_everything():
    normal = lambda u: (-(u.double() ** 2) / 2).to(torch.complex128)
    assert frequencies(normal, 40.0) == (4 * LEAST, 0.0)
    atoms = increment(Rademacher()).log_cf
    assert frequencies(atoms, 11.0) == (MOST, math.inf)


NUMERIC = {
    "smooth": lambda: torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.tensor([0.3, 0.7])),
        Normal(torch.tensor([1.0, 5.0]), torch.tensor([0.5, 2.0])),
    ),
    "bounded": lambda: Beta(torch.tensor(2.0), torch.tensor(3.0)),
}


@pytest.mark.parametrize("name", NUMERIC)
def test_walks_of_laws_by_quadrature_are_certified(name):
    assert increment(NUMERIC[name]()).name.endswith("(numeric)")
    report = dd.check(dd.Walk(NUMERIC[name](), [0.5, 0.4]), torch.tensor([[0.3], [-0.5]]))
    assert report, report


def test_two_laws_by_quadrature_add_up():
    """The table of two increments against their convolution, at points between its own."""
    law = NUMERIC["bounded"]()
    walk, std = dd.Walk(law, [0.5, 0.4]), float(law.stddev)
    scales = [math.sqrt(0.5 * 0.6) / std, math.sqrt(0.4) / std]
    for y in (-0.9, -0.1, 0.4, 1.3):
        found = float(walk.marginal(torch.zeros(1, 1), 2).log_prob(torch.tensor([[y]])).exp())
        start = y + scales[0] * 0.4 + scales[1] * 0.4  # as if both began at 0

        def density(v):
            return 12 * v * (1 - v) ** 2 if 0 < v < 1 else 0  # of Beta(2, 3)

        ends = [max(0, (start - scales[1]) / scales[0]), min(1, start / scales[0])]
        both = lambda v: density(v) * density((start - scales[0] * v) / scales[1])  # noqa: B023
        assert found == pytest.approx(float(mpmath.quad(both, ends)) / scales[1], abs=2e-8)


def test_laplace_sums_in_tables_know_their_own_error():
    walk = dd.Walk(Laplace(0.0, 1.0), [0.5, 0.4])
    walk.marginal(torch.zeros(1, 1), 2).log_prob(torch.zeros(1, 1))
    (grid,) = walk.steps.engine.book.grids
    assert 0 < grid.error < 1e-9
