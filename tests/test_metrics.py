r"""Distances between samples, against brute force, closed forms and their own scatter.

Random tests are seeded. A stated failure rate is over fresh seeds, if the code is right.
"""

import math
from itertools import combinations

import pytest
import scipy.linalg
import scipy.stats
import torch

from discdiff.metrics import Gaussian, Hamming, frechet_distance, mmd, tally, total_variation

KERNELS = [Gaussian(1.5), Hamming(0.1)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def mmd_by_loops(x, y, kernel):
    def k(a, b):
        return kernel(a[None], b[None]).item()

    def within(z):
        pairs = list(combinations(z, 2))
        return sum(k(a, b) for a, b in pairs) / len(pairs)

    across = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


@pytest.mark.parametrize("kernel", KERNELS, ids=["gaussian", "hamming"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_mmd_is_the_sum_over_pairs_whatever_the_chunk(kernel, chunk):
    x, y = torch.randint(3, (7, 4)).double(), torch.randint(4, (5, 4)).double()
    value, error = mmd(x, y, kernel, chunk=chunk)
    assert value == pytest.approx(mmd_by_loops(x, y, kernel), abs=1e-13)
    assert error == pytest.approx(mmd(x, y, kernel).standard_error, rel=1e-10)


def test_hamming_counts_differing_entries():
    x, y = torch.randint(3, (6, 5)), torch.randint(3, (4, 5))
    expected = torch.exp(-0.3 * (x[:, None] != y[None]).sum(-1).double())
    torch.testing.assert_close(Hamming(0.3)(x.double(), y.double()), expected)


def test_mmd_flattens_events_and_accepts_integers():
    x, y = torch.randint(5, (9, 2, 3)), torch.randint(5, (8, 2, 3))
    flat = x.flatten(1).double(), y.flatten(1).double()
    assert mmd(x, y, Hamming(0.1)) == mmd(*flat, Hamming(0.1))


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_mmd_of_gaussians_and_the_scatter_of_its_standard_error(shift):
    # E k = h / sqrt(h² + 2) exp(-shift² / (2 (h² + 2))). The mean of 400 is 4.5 sd off at a rate
    # of 7e-6. Their sd is known to 3.5 % (7 % where P = Q, whose law is skew): 4 sd, a rate of
    # 6e-5.
    h, n, m, repeats = 1.0, 60, 90, 400
    truth = 2 * h / math.sqrt(h**2 + 2) * -math.expm1(-(shift**2) / (2 * (h**2 + 2)))
    pairs = [(torch.randn(n, 1), torch.randn(m, 1) + shift) for _ in range(repeats)]
    draws = [mmd(x, y, Gaussian(h)) for x, y in pairs]
    values, errors = torch.tensor(draws, dtype=torch.float64).T
    assert abs(values.mean() - truth) < 4.5 * values.std() / math.sqrt(repeats)
    assert 0.72 < values.std() / errors.median() < 1.28


def test_mmd_refuses_bad_samples():
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match="equal events"):
        mmd(x, torch.randn(5, 3), Gaussian(1.0))
    with pytest.raises(ValueError, match="at least 4"):
        mmd(x, x[:3], Gaussian(1.0))
    with pytest.raises(ValueError, match="finite"):
        mmd(x, x / 0, Gaussian(1.0))
    with pytest.raises(ValueError, match="bandwidth"):
        Gaussian(0.0)
    with pytest.raises(ValueError, match="scale"):
        Hamming(-1.0)


def covariances(x, y):
    return torch.cov(x.T).numpy(), torch.cov(y.T).numpy()


def test_frechet_distance_against_the_matrix_square_root():
    x = torch.randn(200, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    y = torch.randn(150, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 0.5
    a, b = covariances(x, y)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = (x.mean(0) - y.mean(0)).square().sum().item() + (a + b - 2 * root).trace()
    assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_singular_covariances():
    # Features on a line in R^6, fewer samples than features: the distance is the one on the line.
    line = torch.nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0)
    a, b = torch.randn(5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    measured = frechet_distance(a[:, None] * line, b[:, None] * line)
    assert measured.value == pytest.approx(expected.item())


def test_frechet_distance_of_a_sample_to_itself_is_zero():
    x = torch.randn(100, 8, dtype=torch.float64)
    assert abs(frechet_distance(x, x).value) < 1e-13


def test_frechet_distance_of_gaussians_and_the_coverage_of_its_standard_error():
    # N(0, diag(1, 4)) against N((1, 0), diag(2, 1)). Of 400 intervals of ±1.96 se a Binomial(400,
    # 0.05) number misses: outside [3, 40] at a rate of 1e-05. The bias is a small part of the
    # standard error.
    n, repeats = 2000, 400
    truth = 1.0 + (1 - math.sqrt(2)) ** 2 + (2 - 1) ** 2
    scale_x, scale_y = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]).sqrt()
    shift = torch.tensor([1.0, 0.0])
    draws = [
        frechet_distance(torch.randn(n, 2) * scale_x, torch.randn(n, 2) * scale_y + shift)
        for _ in range(repeats)
    ]
    values, errors = torch.tensor(draws, dtype=torch.float64).T
    misses = ((values - truth).abs() > 1.96 * errors).sum()
    assert 3 <= misses <= 40
    assert 0.85 < values.std() / errors.mean() < 1.15


def test_tally_counts_common_states():
    x, y = torch.tensor([[0, 1], [0, 1], [2, 2]]), torch.tensor([[2, 2], [0, 0]])
    assert [c.tolist() for c in tally(x, y)] == [[0, 2, 1], [1, 0, 1]]


def test_total_variation_by_hand():
    p, q = torch.tensor([5, 3, 2, 0]), torch.tensor([0.25, 0.25, 0.25, 0.25])
    assert total_variation(p, q).value == pytest.approx(0.3)
    assert total_variation(p, torch.tensor([0, 2, 0, 2])).value == pytest.approx(0.7)


def test_noise_floor_against_the_sum_over_binomial_counts():
    n, q = 37, torch.tensor([0.5, 0.3, 0.19, 0.01, 0.0], dtype=torch.float64)
    grid = torch.arange(n + 1)
    mass = torch.as_tensor(scipy.stats.binom.pmf(grid.numpy()[:, None], n, q.numpy()))
    expected = (mass * (grid[:, None].double() / n - q).abs()).sum().item() / 2
    counts = torch.multinomial(q, n, replacement=True).bincount(minlength=5)
    assert total_variation(counts, q).noise_floor == pytest.approx(expected, rel=1e-12)


def test_noise_floor_of_certain_states():
    assert total_variation(torch.tensor([10, 0]), torch.tensor([1.0, 0.0])) == (0.0, 0.0, 0.0)
    assert total_variation(torch.tensor([10]), torch.tensor([4])) == (0.0, 0.0, 0.0)


def test_noise_floor_against_the_sum_over_hypergeometric_counts():
    x, y = torch.tensor([10, 4, 1, 0, 6]), torch.tensor([7, 9, 0, 2, 30])
    n, m = x.sum().item(), y.sum().item()
    expected = 0.0
    for pooled in (x + y).tolist():
        c = torch.arange(min(pooled, n) + 1).double()
        mass = torch.as_tensor(scipy.stats.hypergeom.pmf(c.numpy(), n + m, pooled, n))
        expected += (mass * (c / n - (pooled - c) / m).abs()).sum().item() / 2
    assert total_variation(x, y).noise_floor == pytest.approx(expected, rel=1e-12)


def test_noise_floor_is_the_mean_under_the_null():
    # 4.5 sd of a mean of 400: failure rate 7e-6.
    q, n, repeats = torch.tensor([0.6, 0.25, 0.1, 0.05]), 300, 400
    one, two = [], []
    for _ in range(repeats):
        x = torch.multinomial(q, n, replacement=True).bincount(minlength=4)
        y = torch.multinomial(q, 2 * n, replacement=True).bincount(minlength=4)
        one.append(total_variation(x, q))
        two.append(total_variation(x, y))
    for draws in (one, two):
        values, _, floors = torch.tensor(draws, dtype=torch.float64).T
        gap = values - floors
        assert abs(gap.mean()) < 4.5 * gap.std() / math.sqrt(repeats)


def test_coverage_of_the_standard_error_of_total_variation():
    # Every |p - q| is many standard deviations, so there is no bias, and a Binomial(400, 0.05)
    # number of intervals misses: outside [3, 40] at a rate of 1e-05.
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.3, 0.45, 0.25])
    n, repeats = 4000, 400
    draws = torch.multinomial(p.expand(repeats, 3), n, replacement=True)
    measured = [total_variation(draw.bincount(minlength=3), q) for draw in draws]
    values, errors, _ = torch.tensor(measured, dtype=torch.float64).T
    misses = ((values - 0.2).abs() > 1.96 * errors).sum()
    assert 3 <= misses <= 40


def test_total_variation_refuses_bad_counts():
    with pytest.raises(ValueError, match="integers"):
        total_variation(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="common shape"):
        total_variation(torch.tensor([1, 2]), torch.tensor([0.5, 0.25, 0.25]))
    with pytest.raises(ValueError, match="sum to one"):
        total_variation(torch.tensor([1, 2]), torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="non-negative"):
        total_variation(torch.tensor([1, -2]), torch.tensor([0.5, 0.5]))
