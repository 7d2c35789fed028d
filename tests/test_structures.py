"""Chains with structure: the law of the dense engine, entry by entry, and every law of check."""

import math

import pytest
import torch

import discdiff as dd
from discdiff.engines.factors import Factored
from discdiff.engines.finite import Finite
from discdiff.engines.hops import TwoHops
from discdiff.engines.interpolated import Interpolated
from discdiff.engines.masks import Killed, MaskedEach
from discdiff.engines.ring import Circulant, Reflected
from discdiff.engines.tree import Clustered
from discdiff.numerics.alias import Aliases
from discdiff.numerics.linalg import Uniformized

pytestmark = pytest.mark.usefixtures("float64")

TIMES = torch.tensor([1e-3, 0.7, 20.0], dtype=torch.float64)


def simplex(*shape):
    """Random laws on the last axis."""
    return torch.rand(*shape).pow(2).softmax(-1)


def increments(K):
    return dd.Increments(K, torch.rand(K) * (torch.rand(K) < 0.4) + torch.eye(K)[1])


def nested(K):
    """Three nested levels of random clusters; the coarsest holds all."""
    middle = torch.randint(3, (K,))
    fine = middle * 4 + torch.randint(4, (K,))
    return torch.stack([torch.zeros_like(middle), middle, fine])


def clusters(K):
    return 0.3 * dd.Clusters(nested(K)[:1]) + dd.Clusters(nested(K)[1:])


def hops(K):
    return dd.LowRank(simplex(K, 3), simplex(3, K).T)


def drifting(K):
    early, late = simplex(2, K)
    late = 0.9 * late + 0.1 * early

    def pi(t):
        share = (-t).exp().unsqueeze(-1)
        return share * early + (1 - share) * late

    return dd.Interpolate(pi)


def own_clocks(K):
    slow, late = torch.rand(2, K - 1) + 0.1
    return dd.Masking(lambda t: slow * t.unsqueeze(-1) + late * t.unsqueeze(-1) ** 2)


def factors(K):
    return dd.Kronecker(
        dd.Reflecting(2), 0.5 * dd.Ring(max(3, K // 2)) + increments(max(3, K // 2))
    )


def edges(K):
    return dd.Sparse(torch.rand(K, K) * (torch.rand(K, K) < 3 / K) + torch.eye(K).roll(1, 0))


KINDS = {
    "ring": (dd.Ring, Circulant),
    "increments": (lambda K: dd.Ring(K) + increments(K), Circulant),
    "reflecting": (lambda K: 0.5 * dd.Reflecting(K) + dd.Reflecting(K), Reflected),
    "birth-death": (lambda K: dd.BirthDeath(simplex(K)), Finite),
    "clusters": (clusters, Clustered),
    "two hops": (lambda K: 2.0 * hops(K) + hops(K), TwoHops),
    "masking": (lambda K: dd.Masking(torch.rand(K - 1) + 0.1), MaskedEach),
    "masking on clocks of their own": (own_clocks, MaskedEach),
    "killed ordinal": (lambda K: dd.Killing(dd.Reflecting(K - 1), 0.7), Killed),
    "killed uniform": (lambda K: dd.Killing(dd.Replace(simplex(K - 1))), Killed),
    "killed tree": (lambda K: 3.0 * dd.Killing(clusters(K - 1), 0.2), Killed),
    "factors": (factors, Factored),
    "interpolated": (drifting, Interpolated),
    "graph": (edges, Finite),
    "of several kinds": (lambda K: dd.Reflecting(K) + increments(K) + hops(K), Finite),
}


def worst(a, b):
    """The largest relative error of entries above 1e-30, where the series are known to suffice."""
    seen = b > 1e-30
    return float(((a - b).abs() / b)[seen].max())


@pytest.mark.parametrize("K", [6, 40])
@pytest.mark.parametrize("name", KINDS)
def test_kernels_are_those_of_the_dense_engine(name, K):
    torch.manual_seed(K)
    make, engine = KINDS[name]
    chain = make(K)
    assert type(chain.engine) is engine
    size, s = chain.terms[0].size, 0.4 * TIMES
    x, y = torch.randint(size, (3, 2)), torch.randint(size, (3, 2, 5))
    ours, dense = chain.engine, Finite(chain.terms)
    one, other = ours.kernel(s, TIMES), dense.kernel(s, TIMES)
    v = torch.rand(3, 2, size)
    tolerance = 1e-9 if dense.varying else 1e-12  # panels are accurate to 1e-10
    assert worst(one.rows(x), other.rows(x)) < tolerance
    assert worst(one.columns(x), other.columns(x)) < tolerance
    assert worst(one.apply(v), other.apply(v)) < tolerance
    assert worst(one.entries(x)(y), other.entries(x)(y)) < tolerance


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("K", [6, 40])
def test_every_law_holds(name, K):
    torch.manual_seed(1)
    chain = KINDS[name][0](K)
    x = torch.randint(chain.terms[0].size - 1, (3, 1))
    report = dd.check(chain.on(dd.clock.Constant(2.0)), x)
    assert report, report


@pytest.mark.parametrize("part", range(4))
def test_every_law_holds_on_random_ones(part):
    """200 in all, of 6 to 40 states."""
    for seed in range(50 * part, 50 * part + 50):
        torch.manual_seed(seed)
        name = list(KINDS)[seed % len(KINDS)]
        chain = KINDS[name][0](int(torch.randint(6, 41, ())))
        x = torch.randint(chain.terms[0].size - 1, (2, 1))
        report = dd.check(chain.on(dd.clock.Constant(1.5)), x)
        assert report, (name, seed, report)


@pytest.mark.parametrize("name", ["ring", "reflecting", "clusters", "two hops", "killed ordinal"])
def test_a_mutant_is_caught(name, monkeypatch):
    """One entry in a hundred of every row too large by 1 %."""
    chain = KINDS[name][0](8)
    kernel = type(chain.engine.kernel(TIMES, TIMES))
    sound = kernel.row

    def wrong(self, x):
        rows = sound(self, x).clone()
        rows[..., 0] *= 1.01
        return rows

    monkeypatch.setattr(kernel, "row", wrong)
    assert not dd.check(chain.on(dd.clock.Constant(2.0)), torch.tensor([[1], [3]]))


def test_draws_keep_small_probabilities():
    """Draws of every structure follow its rows: chi-square over 40 000 draws, bound 6 s.d."""
    for name, (make, _) in KINDS.items():
        torch.manual_seed(0)
        chain = make(7)
        size = chain.terms[0].size
        x = torch.full((1, 40_000), 2)
        t = torch.tensor([0.8])
        law = chain.transition(x, 0.0, t)
        seen = torch.bincount(law.sample()[0], minlength=size).double()
        goal = chain.transition(x[:, :1], 0.0, t)
        p = goal.base_dist.log_prob(torch.arange(size)[:, None, None])[:, 0, 0].exp()
        assert not bool(seen[p == 0].any()), name
        common = p * 40_000 > 5
        chi = ((seen - 40_000 * p)[common] ** 2 / (40_000 * p)[common]).sum()
        freedom = int(common.sum())
        assert chi < freedom + 6 * math.sqrt(2 * freedom) + 6, name


def test_reflecting_walk_against_the_spectrum_and_the_images():
    """Absolute accuracy against the cosine transform; the dense engine is held to mpmath."""
    K, t = 17, 1.3
    k, i = torch.arange(K), torch.arange(K) + 0.5
    waves = torch.cos(math.pi * k[:, None] * i / K)
    weight = (
        torch.where(k == 0, 1.0, 2.0) / K * torch.exp(-2 * t * (1 - torch.cos(math.pi * k / K)))
    )
    goal = (waves * weight[:, None]).T @ waves
    rows = dd.Reflecting(K).transition(torch.arange(K), 0.0, t).probs
    torch.testing.assert_close(rows, goal, rtol=0, atol=2e-15)


def test_own_masking_clocks_are_genmd4s():
    """α_i(t) = 1 − t^{w_i} on the clock whose survival is 1 − t."""
    power = torch.tensor([1.0, 2.0, 0.5])
    hazard = lambda tau: -torch.log1p(-((-torch.expm1(-tau)).unsqueeze(-1) ** power))
    process = dd.Masking(hazard).on(dd.clock.LogLinear())
    t = torch.tensor([0.1, 0.5, 0.9])
    for token in range(3):
        probs = process.marginal(torch.full((3,), token), t).probs
        torch.testing.assert_close(probs[:, 3], t ** power[token], rtol=1e-12, atol=0)


def test_a_law_that_no_process_has_is_refused():
    def pi(t):  # state 0 loses mass faster than anything is replaced
        share = (-8 * t).exp().unsqueeze(-1)
        return torch.cat([0.9 * share, 1 - 0.9 * share], -1)

    with pytest.raises(ValueError, match="must be ≥ 0 for a process to exist"):
        dd.Interpolate(pi)


def test_a_law_that_is_none_for_a_moment_is_refused_when_it_is_asked_for():
    """The declaration looks at 257 survivals, between which this one dips."""

    def pi(t):
        dip = 0.2 * torch.exp(-((((-t).exp() - 0.5 - 1 / 512) / 1e-4) ** 2)).unsqueeze(-1)
        return torch.cat([0.5 + dip, 0.5 - dip], -1)

    chain, peak = dd.Interpolate(pi), -math.log(0.5 + 1 / 512)
    x = torch.tensor([0])
    assert chain.transition(x, 0.0, peak).probs.shape == (1, 2)
    with pytest.raises(ValueError, match="pi leaves no law at the own times"):
        chain.transition(x, peak, peak + 1e-3)


def test_large_graphs_are_simulated():
    K = 3000
    here = torch.arange(K)
    Q = torch.sparse_coo_tensor(
        torch.stack([here, (here + 7) % K]), torch.ones(K), (K, K), check_invariants=True
    )
    graph = dd.Sparse(Q)
    with pytest.raises(dd.Unsolved, match=r"train by ratio_matching"):
        graph.transition(torch.tensor([0]), 0.0, 1.0)
    paths = dd.simulate(graph, torch.zeros(500, 1, dtype=torch.int64), torch.tensor([1.0]))
    hops_made = paths[0, :, 0] // 7
    assert abs(float(hops_made.double().mean()) - 1.0) < 6 * 500**-0.5


@pytest.mark.parametrize("name", ["increments", "clusters", "two hops", "birth-death", "masking"])
def test_numbers_are_learned(name):
    torch.manual_seed(0)
    chain = dd.learn(KINDS[name][0](6))
    size = chain.terms[0].size
    x, y = torch.randint(size, (4, 3)), torch.randint(size, (4, 3))
    log_p = chain.transition(x, 0.0, 0.7).log_prob(y)
    log_p[log_p.isfinite()].sum().backward()
    slopes = [p.grad for p in chain.parameters()]
    assert slopes and all(g is not None and bool(g.isfinite().all()) for g in slopes)
    dense = Uniformized(sum(term.matrix() for term in chain.terms))
    goal = dense.rows(x, torch.full((4,), 0.7)).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_p.exp(), goal.log().sum(-1).exp(), rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dd.Ring(2), ("K", "≥ 3", "2")),
        (lambda: dd.Reflecting(1), ("K", "≥ 2")),
        (lambda: dd.Increments(3, [0.0, 1.0]), ("rates", "(3,)", "(2,)")),
        (lambda: dd.Increments(2, [0.0, -1.0]), ("rates", "≥ 0", "-1")),
        (lambda: dd.BirthDeath([0.5, 0.6]), ("pi", "sum to one", "1.1")),
        (lambda: dd.BirthDeath([0.0, 1.0]), ("pi", "positive")),
        (lambda: dd.Clusters([[0, 0, 1], [0, 1, 1]]), ("nested", "coarse to fine")),
        (lambda: dd.Clusters([[0.5, 1.0]]), ("integer", "0.5")),
        (lambda: dd.Clusters([[0, 1], [0, 1, 2]]), ("one length", "(3,)")),
        (lambda: dd.LowRank([[1.0], [1.0]], [[1.0], [1.0]]), ("columns of W", "sum to one")),
        (lambda: dd.LowRank([[1.0]], [[1.0], [0.0]]), ("one shape", "(1, 1)", "(2, 1)")),
        (lambda: dd.Clusters(torch.arange(99)), ("vectors", "(), (), (), (), …")),
        (lambda: dd.Masking([-1.0]), ("rates", "≥ 0")),
        (lambda: dd.Masking(lambda t: 1 + t[:, None]), ("start at 0",)),
        (lambda: dd.Killing(dd.Death()), ("chain", "finitely many states", "Death")),
        (lambda: dd.Killing(dd.Reflecting(3), -1.0), ("rate", "≥ 0")),
        (lambda: dd.Kronecker(dd.Reflecting(3)), ("at least two chains",)),
        (lambda: dd.Interpolate([0.5, 0.5]), ("pi", "function of own time")),
        (lambda: dd.Sparse(torch.ones(2, 3)), ("Q", "square", "(2, 3)")),
        (lambda: dd.Sparse(-torch.ones(2, 2)), ("Q", "≥ 0")),
    ],
)
def test_bad_numbers_are_refused(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("shape", [(5, 1), (3, 2), (40, 7), (300, 64), (2, 5000)])
def test_alias_tables_are_their_laws(shape):
    """And a state without mass is never drawn."""
    torch.manual_seed(0)
    probs = torch.rand(shape).pow(5) * (torch.rand(shape) < 0.6)
    probs[:, 0] += 1e-3
    probs = probs / probs.sum(-1, keepdim=True)
    table = Aliases(probs)
    torch.testing.assert_close(table.probs(), probs, rtol=0, atol=2e-15)
    rows = torch.randint(shape[0], (20_000,))
    assert bool((probs[rows, table.draw(rows)] > 0).all())


SEEN = {
    "ring": "Circulant",
    "increments": "Circulant",
    "reflecting": "Reflected",
    "clusters": "Clustered",
    "masking": "MaskedEach",
    "killed ordinal": "Killed",
    "killed uniform": "Killed",
    "killed tree": "Killed",
}


@pytest.mark.parametrize(
    "name", [k for k in KINDS if k not in ("interpolated", "masking on clocks of their own")]
)
def test_structure_is_found_in_a_plain_rate_matrix(name):
    torch.manual_seed(2)
    chain = KINDS[name][0](9)
    plain = dd.RateMatrix(sum(term.matrix() for term in chain.terms))
    assert type(plain.engine).__name__ == SEEN.get(name, "Finite")
    x, t = torch.randint(9, (3, 2)), TIMES
    one, other = plain.engine.kernel(0 * t, t), Finite(plain.terms).kernel(0 * t, t)
    assert worst(one.rows(x), other.rows(x)) < 1e-11
    (plan,) = dd.explain(plain).plans
    assert ("which recognised" in plan.reason) == (name in SEEN)


def test_almost_a_structure_is_none():
    Q = dd.Reflecting(9).matrix()
    Q[3, 4] *= 1 + 1e-9
    Q = Q - Q.sum(1).diag()
    assert type(dd.RateMatrix(Q).engine) is Finite


def test_a_learned_matrix_stays_a_matrix():
    chain = dd.RateMatrix(dd.Reflecting(5).matrix())
    assert type(chain.engine) is Reflected
    assert type(dd.learn(chain).engine) is Finite


def separable(K, r, seed=0, by_columns=False):
    """Factors of which each feature has a state of its own."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.rand(K, r, generator=generator, dtype=torch.float64) for _ in range(2))
    mine = torch.randperm(K, generator=generator)[:r]
    (V if by_columns else U)[mine] = torch.eye(r, dtype=torch.float64)
    return dd.LowRank(U / U.sum(1, keepdim=True), V / V.sum(0))


PRODUCTS = {
    "two walks": lambda: dd.Kronecker(dd.Reflecting(5), dd.Ring(8)),
    "three factors": lambda: dd.Kronecker(
        2.0 * dd.Reflecting(4), dd.Kronecker(dd.Ring(5), dd.Replace([0.2, 0.8]))
    ),
    "a dense factor": lambda: dd.Kronecker(dd.RateMatrix(dense(5)), 0.3 * dd.Reflecting(8)),
    "features with rows": lambda: 1.7 * separable(36, 4),
    "features with columns": lambda: 0.3 * separable(40, 6, 1, by_columns=True),
}


def dense(K):
    Q = torch.rand(K, K, generator=torch.Generator().manual_seed(K), dtype=torch.float64)
    Q = Q - Q.diagonal().diag()
    return Q - Q.sum(1).diag()


@pytest.mark.parametrize("name", PRODUCTS)
def test_factors_and_features_are_recognised(name):
    """The engine of the declared structure, and the laws of the dense one."""
    declared = PRODUCTS[name]()
    (term,) = declared.terms
    plain = dd.RateMatrix(term.matrix())
    assert type(plain.engine) is type(declared.engine) is not Finite
    (plan,) = dd.explain(plain).plans
    assert "which recognised" in plan.reason
    x = torch.arange(term.size).expand(6, -1)
    t = torch.tensor([1e-8, 0.01, 0.5, 2.0, 30.0, torch.inf], dtype=torch.float64)
    one, other = plain.engine.kernel(0 * t, t), Finite(plain.terms).kernel(0 * t, t)
    assert worst(one.rows(x), other.rows(x)) < 1e-11
    assert worst(one.columns(x), other.columns(x)) < 1e-11


@pytest.mark.parametrize("name", PRODUCTS)
def test_almost_factors_or_features_are_none(name):
    Q = PRODUCTS[name]().terms[0].matrix()
    Q[0, 1] = Q[0, 1] * (1 + 1e-9) + 1e-9
    assert type(dd.RateMatrix(Q - Q.sum(1).diag()).engine) is Finite


def test_features_that_are_too_many_or_have_no_state_are_none():
    """Nor are few states: beyond K / 4 features, or below 32 states, nothing is gained."""
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.rand(36, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    mixed = dd.LowRank(U / U.sum(1, keepdim=True), V / V.sum(0))
    small = dd.Kronecker(dd.Reflecting(4), dd.Ring(5))
    for chain in (small, separable(36, 12), separable(24, 4), mixed, dd.RateMatrix(dense(36))):
        assert type(dd.RateMatrix(chain.terms[0].matrix()).engine) is Finite


def test_features_may_be_found_in_single_precision():
    """A softmax over many states is off by more than one entry's rounding; one of 1e-4 is not."""
    torch.manual_seed(0)
    W = torch.randn(20_000, 3, dtype=torch.float32).softmax(0)
    U = torch.randn(20_000, 3, dtype=torch.float32).softmax(1)
    assert float((W.double().sum(0) - 1).abs().max()) > 1e-6
    assert float((dd.LowRank(U, W).W.sum(0) - 1).abs().max()) < 1e-14
    with pytest.raises(ValueError, match="columns of W must sum to one"):
        dd.LowRank(U, W * (1 + 1e-4))
    with pytest.raises(ValueError, match="columns of W must sum to one"):
        dd.LowRank(U.double(), W.double())
