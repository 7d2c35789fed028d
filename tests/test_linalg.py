r"""Transition matrices against mpmath, Bessel images, eigenvectors that must fail, and an ODE."""

import math
import time

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from discdiff import RateMatrix
from discdiff.numerics.linalg import Propagator, Uniformized, panels_for
from discdiff.solve import Unsolved

F64 = torch.float64
TIMES = [0.05, 1.0, 20.0]
SETTINGS = settings(deadline=None, max_examples=25)


def times(*values):
    return torch.tensor(values, dtype=F64)


def rate_matrix(rates):
    """Off-diagonal rates as a rate matrix."""
    off = rates - rates.diagonal().diag_embed()
    return off - off.sum(-1).diag_embed()


def random_chain(size, seed=0, density=1.0):
    generator = torch.Generator().manual_seed(seed)
    rates = torch.rand(size, size, dtype=F64, generator=generator)
    keep = torch.rand(size, size, dtype=F64, generator=generator) < density
    return rate_matrix(rates * keep)


def walk(size):
    """Unit rate to each neighbour on 0 … size − 1."""
    step = torch.ones(size - 1, dtype=F64).diag(1)
    return rate_matrix(step + step.T)


def exact_walk(size, t):
    r"""Σ_k e^{-2t} [I_{x−y+2kK}(2t) + I_{x+y+1+2kK}(2t)]: images in both reflecting ends."""
    reach = max(4 * size, 160)
    with mpmath.workdps(40):
        scale = mpmath.exp(-2 * t)
        bessel = [scale * mpmath.besseli(m, 2 * t) for m in range(160)]
        table = torch.zeros(reach, dtype=F64)
        table[:160] = torch.tensor([float(value) for value in bessel], dtype=F64)
    x = torch.arange(size)
    total = torch.zeros(size, size, dtype=F64)
    for k in (-1, 0, 1):
        straight = (x[:, None] - x + 2 * k * size).abs()
        mirrored = (x[:, None] + x + 1 + 2 * k * size).abs()
        total = total + table[straight] + table[mirrored]
    return total


def exact_expm(Q, t):
    """exp(tQ) by mpmath with 60 digits."""
    with mpmath.workdps(60):
        P = mpmath.expm(mpmath.matrix(Q.tolist()) * mpmath.mpf(t), method="taylor")
        return torch.tensor(list(map(float, P)), dtype=F64).reshape(P.rows, P.cols)


def relative_error(P, exact):
    keep = exact > 1e-30
    return float(((P.double() - exact).abs() / exact)[keep].max())


@pytest.fixture(scope="module", autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def walk256():
    return Uniformized(walk(256))


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(("dtype", "bound"), [(F64, 1e-10), (torch.float32, 1e-4)])
def test_every_entry_of_the_walk_is_relatively_accurate(walk256, t, dtype, bound):
    exact = exact_walk(256, t)
    chain = walk256.to(dtype)
    x = torch.arange(256)
    for P in (
        chain.matrix(times(t))[0],
        chain.rows(x, times(t).expand(256)),
        chain.columns(x, times(t).expand(256)).mT,
        chain.rows(x[None], times(t))[0],
    ):
        assert P.dtype == dtype
        assert float(P.min()) >= 0
        assert relative_error(P, exact) < bound


@pytest.mark.parametrize("t", TIMES)
def test_an_eigenbasis_fails_where_uniformization_holds(t):
    Q = walk(256)
    values, vectors = torch.linalg.eigh(Q)
    P = vectors * (t * values).exp() @ vectors.T
    assert relative_error(P, exact_walk(256, t)) > 1e3
    assert float(P.min()) < 0


def test_a_rate_that_is_one_percent_off_is_seen():
    chain = Uniformized(1.01 * walk(32))
    assert relative_error(chain.matrix(times(1.0))[0], exact_walk(32, 1.0)) > 1e-2
    chain = Uniformized(walk(32))
    assert relative_error(chain.matrix(times(1.0))[0], exact_walk(32, 1.0)) < 1e-10


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("seed", range(3))
def test_random_chains_against_mpmath(t, seed):
    Q = random_chain(6, seed, density=0.5)
    P = Uniformized(Q).matrix(times(t))[0]
    assert float(P.min()) >= 0
    assert relative_error(P, exact_expm(Q, t)) < 1e-10
    assert relative_error(Uniformized(Q).to(torch.float32).matrix(times(t))[0], P) < 1e-4


@pytest.mark.parametrize("t", TIMES)
def test_a_stiff_chain_keeps_its_slow_rates(t):
    """Rates from 1e-9 to 1e3: the diagonal of I + Q/λ alone would lose the slow ones."""
    Q = random_chain(5, 3) * torch.logspace(-9, 3, 5, dtype=F64)[:, None]
    for tau in (t, 1e6 * t):
        P = Uniformized(Q).matrix(times(tau))[0]
        exact = exact_stiff(Q, tau)
        assert relative_error(P, exact) < 1e-10


def exact_stiff(Q, t):
    """exp(tQ) with 200 digits by eigenvectors, with exact zero row sums."""
    with mpmath.workdps(200):
        A = mpmath.matrix(Q.tolist())
        for i in range(A.rows):
            A[i, i] = -sum(A[i, j] for j in range(A.cols) if j != i)
        values, vectors = mpmath.eig(A)
        P = vectors * mpmath.diag([mpmath.exp(t * v) for v in values]) * vectors**-1
        real = [[float(P[i, j].real) for j in range(P.cols)] for i in range(P.rows)]
        return torch.tensor(real, dtype=F64)


@pytest.mark.parametrize("t", [1e-8, *TIMES, 700.0, math.inf])
def test_a_defective_pure_death_with_constant_rate(t):
    """Jordan block: k deaths before reaching the absorbing 0 have a Poisson law."""
    size = 8
    Q = rate_matrix(torch.ones(size - 1, dtype=F64).diag(-1))
    P = Uniformized(Q).matrix(times(t))[0]
    exact = torch.zeros(size, size, dtype=F64)
    for x in range(size):
        for y in range(1, x + 1):
            exact[x, y] = math.exp(-t) * min(t, 1e9) ** (x - y) / math.factorial(x - y)
        deaths = range(x, 60) if t < 1 else range(0, x)
        part = math.fsum(math.exp(-t) * min(t, 1e9) ** n / math.factorial(n) for n in deaths)
        exact[x, 0] = (part if t < 1 else 1 - part) if x else 1.0
    assert relative_error(P, exact) < 1e-12
    assert P[:, 0].min() >= 0


def test_no_rates_at_all():
    chain = Uniformized(torch.zeros(3, 3, dtype=F64))
    assert chain.converged
    eye = torch.eye(3, dtype=F64).expand(3, 3, 3)
    torch.testing.assert_close(chain.matrix(times(0.0, 1.0, math.inf)), eye)


@SETTINGS
@given(
    st.integers(2, 6),
    st.integers(0, 10**6),
    st.floats(0.2, 1.0),
    st.floats(0, 50),
    st.floats(0, 50),
)
def test_chapman_kolmogorov_and_unit_rows(size, seed, density, s, t):
    chain = Uniformized(random_chain(size, seed, density))
    assert chain.converged
    P_s, P_t, P, end = chain.matrix(times(s, t, s + t, math.inf))
    torch.testing.assert_close(P_s @ P_t, P, rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(end, chain.limit(), rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(P.sum(-1), torch.ones(size, dtype=F64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("event", [(), (1,), (3,), (2, 4), (9,)])
@pytest.mark.parametrize("size", [3, 60])
def test_all_verbs_agree_on_every_path(event, size):
    chain = Uniformized(random_chain(size, 1))
    tau = times(0.0, 0.3, 0.02, 5.0, math.inf)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(size, (5, *event), generator=generator)
    v = torch.rand(5, *event, size, dtype=F64, generator=generator)
    P = chain.matrix(tau)
    flat, laws = x.reshape(5, -1), v.reshape(5, -1, size)
    rows = torch.stack([P[b][flat[b]] for b in range(5)]).reshape(v.shape)
    columns = torch.stack([P[b].T[flat[b]] for b in range(5)]).reshape(v.shape)
    torch.testing.assert_close(chain.rows(x, tau), rows, rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.columns(x, tau), columns, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        chain.apply(v, tau), (laws @ P).reshape(v.shape), rtol=1e-12, atol=0
    )
    expected = (laws @ P.mT).reshape(v.shape)
    torch.testing.assert_close(chain.apply_transposed(v, tau), expected, rtol=1e-12, atol=0)


def test_levels_cover_slow_mixing_and_report_what_they_do_not(walk256):
    assert walk256.converged
    uniform = torch.full((256, 256), 1 / 256, dtype=F64)
    torch.testing.assert_close(walk256.limit(), uniform, rtol=1e-12, atol=0)
    assert not Uniformized(walk(256), levels=4).converged
    assert Uniformized(walk(8), levels=Uniformized(walk(8)).levels).converged
    split = rate_matrix(torch.tensor([[0.0, 1, 1e-25], [1, 0, 0], [1e-25, 0, 0]], dtype=F64))
    chain = Uniformized(split)
    assert chain.levels == 64
    assert not chain.converged
    leak = chain.matrix(times(1e10))[0][0, 2]
    torch.testing.assert_close(leak, torch.tensor(0.5e-15, dtype=F64), rtol=1e-9, atol=0)


def test_gradients_in_the_rates_and_in_time():
    x = torch.tensor([[0, 2], [1, 1], [3, 0]])
    v = torch.rand(3, 2, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    tau = times(0.3, 1.7, 9.2).requires_grad_()
    rates = random_chain(4).abs().requires_grad_()

    def verbs(rates, tau):
        chain = Uniformized(rate_matrix(rates), levels=8)
        return (
            chain.rows(x, tau),
            chain.columns(x, tau),
            chain.apply(v, tau),
            chain.apply_transposed(v, tau),
        )

    assert torch.autograd.gradcheck(verbs, (rates, tau))
    weight = torch.rand(3, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    ours = (Uniformized(rate_matrix(rates)).matrix(tau) * weight).sum()
    theirs = (torch.matrix_exp(rate_matrix(rates) * tau[:, None, None]) * weight).sum()
    for a, b in zip(
        torch.autograd.grad(ours, (rates, tau)),
        torch.autograd.grad(theirs, (rates, tau)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_gradients_are_finite_at_the_ends_of_time():
    rates = random_chain(4).abs().requires_grad_()
    tau = times(0.0, 1e-300, math.inf).requires_grad_()
    P = Uniformized(rate_matrix(rates)).matrix(tau)
    for grad in torch.autograd.grad(P[:, 0, 1].sum(), (rates, tau)):
        assert bool(grad.isfinite().all())
    (slope,) = torch.autograd.grad(Uniformized(rate_matrix(rates)).matrix(tau)[0, 0, 1], tau)
    torch.testing.assert_close(slope[0], rates[0, 1].detach())


def test_it_compiles_without_a_graph_break():
    chain = Uniformized(random_chain(5))
    x, tau = torch.tensor([[0, 1], [2, 4]]), times(0.4, 7.0)
    compiled = torch.compile(
        lambda x, tau: (chain.rows(x, tau), chain.columns(x[:, 0], tau), chain.matrix(tau)),
        fullgraph=True,
        backend="aot_eager",
    )
    expected = chain.rows(x, tau), chain.columns(x[:, 0], tau), chain.matrix(tau)
    torch.testing.assert_close(compiled(x, tau), expected)


def test_tables_compile_when_the_levels_are_known():
    rates = random_chain(4).abs().requires_grad_()
    x, tau = torch.tensor([0, 3]), times(0.4, 7.0)
    rows = lambda rates: Uniformized(rate_matrix(rates), levels=6).rows(x, tau)
    compiled = torch.compile(rows, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rates), rows(rates))
    (ours,) = torch.autograd.grad(compiled(rates)[0, 1], rates)
    torch.testing.assert_close(ours, torch.autograd.grad(rows(rates)[0, 1], rates)[0])


def test_rows_are_far_cheaper_than_exponentials():
    """The target is 60 times on an idle machine; the bound leaves room for a busy one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        Q = random_chain(256)
        Q = Q / -Q.diagonal().min()
        chain, tau, x = Uniformized(Q), torch.linspace(0.01, 1, 64), torch.arange(64)
        exponential = fastest(lambda: torch.matrix_exp(tau[:, None, None] * Q), 1)
        assert exponential > 60 * fastest(lambda: chain.rows(x, tau), 7)
    finally:
        torch.set_num_threads(threads)


def fastest(call, repeats):
    call()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return min(durations)


BASE = torch.stack([random_chain(5, seed) for seed in (1, 2)])
LADDER = torch.stack([walk(8) * random_chain(8, seed).abs() for seed in (1, 2)])
HORIZON = 2.0


def varying(t):
    """Rates that do not commute with themselves at other times."""
    wave = torch.stack([1 + torch.sin(3 * t), 1 + t * t], -1)
    return torch.einsum("bi,ixy->bxy", wave, BASE)


def ladder(t):
    """Rates to neighbours that vary: seven jumps lead from end to end. One vanishes at 0."""
    wave = torch.stack([t, 1 + torch.cos(5 * t)], -1)
    rates = torch.einsum("bi,ixy->bxy", wave, LADDER.abs())
    rates = rates - rates.diagonal(dim1=-2, dim2=-1).diag_embed()
    return rates - rates.sum(-1).diag_embed()


def positive_panels(Q, s, t, panels=2**13):
    r"""The classical Runge–Kutta method for R, P = e^{-λ(t - s)} R: no term is negative.

    A path of m jumps has relative error (m choose 5) / panels⁴, and that of the variation of Q.
    """
    nodes = torch.linspace(s, t, 2 * panels + 1, dtype=F64)
    rate = 1.01 * -Q(nodes).diagonal(dim1=-2, dim2=-1).min()
    eye = torch.eye(Q(nodes[:1]).shape[-1], dtype=F64)
    M, z = eye + Q(nodes) / rate, rate * (t - s) / panels
    left, middle, right = M[:-2:2], M[1::2], M[2::2]
    b = (eye + z / 2 * left) @ middle
    c = (eye + z / 2 * b) @ middle
    P = eye + z / 6 * (left + 2 * b + 2 * c + (eye + z * c) @ right)
    while panels > 1:
        P, panels = P[0::2] @ P[1::2] / P.sum(-1).mean() ** 2, panels // 2
    return P[0] / P[0].sum(-1, keepdim=True)


@pytest.fixture(scope="module")
def propagator():
    return Propagator(varying, HORIZON, panels_for(varying, HORIZON))


def ode(s, t):
    """SciPy's solver ends its last step at t; torchdiffeq interpolates there, 1e-9 off."""

    def slope(at, flat):
        return (torch.from_numpy(flat).reshape(5, 5) @ varying(times(at))[0]).flatten().numpy()

    eye = torch.eye(5, dtype=F64).flatten().numpy()
    end = solve_ivp(slope, (s, t), eye, method="DOP853", rtol=1e-13, atol=1e-18).y[:, -1]
    return torch.from_numpy(end).reshape(5, 5)


@pytest.mark.parametrize(("s", "t"), [(0.0, 2.0), (0.3, 0.31), (1.1, 1.9), (0.5, 0.7)])
def test_varying_rates_against_an_ode(propagator, s, t):
    P = propagator.matrix(times(s), times(t))[0]
    exact = ode(s, t)
    assert float(((P - exact).abs() / exact).max()) < 1e-11
    torch.testing.assert_close(P.sum(-1), torch.ones(5, dtype=F64), rtol=1e-12, atol=0)
    assert float(P.min()) >= 0


# All, up to the end, inside one panel, across one edge, from edge to edge, and next to nothing.
SPANS = [(0.0, 2.0), (0.1, 2.0), (0.7, 0.705), (0.49, 0.51), (0.5, 1.75), (0.0, 1e-3)]


@pytest.mark.parametrize("Q", [varying, ladder])
@pytest.mark.parametrize(("s", "t"), SPANS)
def test_every_entry_of_varying_chains_is_relatively_accurate(Q, s, t):
    P = Propagator(Q, HORIZON, panels_for(Q, HORIZON)).matrix(times(s), times(t))[0]
    assert float(P.min()) > 0
    assert relative_error(P, positive_panels(Q, s, t)) < 1e-10


@pytest.mark.parametrize("t", [1e-8, 1e-3, 0.3, 1.0, 20.0])
def test_constant_rates_are_those_of_uniformization(t):
    """Entries down to 1e-60: seven jumps within 1e-8."""
    Q = walk(8)
    chain = Propagator(lambda at: Q.expand(at.shape[0], 8, 8), 20.0, 32)
    P = chain.matrix(times(0.0), times(t))[0]
    exact = Uniformized(Q).matrix(times(t))[0]
    torch.testing.assert_close(P, exact, rtol=1e-11, atol=0)
    assert chain.error() < 2e-13


def test_the_exponential_of_the_integral_is_wrong_for_varying_rates():
    nodes = torch.linspace(0, 2, 2001, dtype=F64)
    wrong = torch.matrix_exp(torch.trapezoid(varying(nodes), nodes, dim=0))
    assert float((wrong - ode(0.0, 2.0)).abs().max()) > 1e-4


def test_a_varying_rate_that_is_one_percent_off_is_seen():
    chain = Propagator(lambda t: 1.01 * varying(t), HORIZON, 64)
    assert relative_error(chain.matrix(times(0.0), times(0.3))[0], ode(0.0, 0.3)) > 1e-3


@SETTINGS
@given(st.lists(st.one_of(st.floats(0, 2), st.sampled_from([0.5, 1.75])), min_size=3, max_size=3))
def test_varying_chains_compose(propagator, three):
    r, s, t = (times(time) for time in sorted(three))
    P_r, P_s, P = propagator.matrix(r, s), propagator.matrix(s, t), propagator.matrix(r, t)
    torch.testing.assert_close(P_r @ P_s, P, rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(P.sum(-1), torch.ones(1, 5, dtype=F64), rtol=1e-12, atol=0)
    assert torch.equal(propagator.matrix(s, s)[0], torch.eye(5, dtype=F64))


@pytest.mark.parametrize("event", [(), (2,), (3, 3)])
def test_verbs_of_varying_rates_agree(event):
    chain = Propagator(varying, HORIZON, 32)
    s, t = times(0.0, 0.5, 0.7), times(0.4, 0.5, 2.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(5, (3, *event), generator=generator)
    v = torch.rand(3, *event, 5, dtype=F64, generator=generator)
    P = chain.matrix(s, t)
    laws, hot = v.reshape(3, -1, 5), torch.nn.functional.one_hot(x, 5).reshape(3, -1, 5).to(F64)
    for found, expected in (
        (chain.rows(x, s, t), hot @ P),
        (chain.columns(x, s, t), hot @ P.mT),
        (chain.apply(v, s, t), laws @ P),
        (chain.apply_transposed(v, s, t), laws @ P.mT),
        (chain.apply(-v, s, t), -laws @ P),
        (chain.apply_transposed(-v, s, t), -laws @ P.mT),
    ):
        torch.testing.assert_close(found, expected.reshape(v.shape), rtol=1e-12, atol=1e-300)


def test_steps_are_of_order_twelve():
    def rates(t):
        wave = torch.stack([1 + torch.sin(3 * t), 1 + torch.cos(3 * t)], -1)
        return torch.einsum("bi,ixy->bxy", 0.03 * wave, BASE)

    errors = []
    for span in (0.9, 0.7):
        P = [Propagator(rates, span, n).matrix(times(0), times(span)) for n in (1, 32)]
        errors.append(float((P[0] - P[1]).abs().max()))
    local = math.log(errors[0] / errors[1]) / math.log(0.9 / 0.7)
    assert local == pytest.approx(13, abs=0.5)


def test_the_error_of_half_as_many_panels_is_bounded():
    exact = positive_panels(varying, 0.0, 2.0)
    for panels in (1, 2, 4):
        P = Propagator(varying, HORIZON, panels).matrix(times(0.0), times(2.0))[0]
        assert 1e-10 < relative_error(P, exact) < Propagator(varying, HORIZON, 2 * panels).error()
    assert Propagator(varying, HORIZON, 64).error() < 1e-10


def test_coarse_panels_have_no_negative_entries_and_do_not_overflow():
    """0 → 1 late and 1 → 2 early: in one panel their integral over u < w comes out negative."""

    def late_then_early(t):
        rates = torch.zeros(t.shape[0], 3, 3, dtype=F64)
        rates[:, 0, 1], rates[:, 1, 2] = t**8, (1 - t) ** 8
        return rates - rates.sum(-1).diag_embed()

    P = Propagator(late_then_early, 1.0, 1).matrix(times(0.0), times(1.0))[0]
    assert float(P.min()) >= 0
    for panels in (1, 16):
        P = Propagator(varying, HORIZON, panels).matrix(times(0.0), times(2.0))[0]
        assert float(P.min()) >= 0
        torch.testing.assert_close(P.sum(-1), torch.ones(5, dtype=F64))
    long = Propagator(lambda t: varying(t / 1000), 1000.0, 2048)
    P = long.matrix(times(0.0), times(1000.0))[0]
    torch.testing.assert_close(P.sum(-1), torch.ones(5, dtype=F64))


def test_varying_chains_solve_both_differential_equations(propagator):
    """∂_t P = P Q(t) and ∂_s P = −Q(s) P: across panels, inside one, at edges and at s = t."""
    s, t = times(0.1, 0.7, 0.5, 0.5, 0.0), times(1.3, 0.701, 1.25, 0.5, 2.0)
    rows = lambda s, t: propagator.matrix(s, t).sum(0)  # so that the Jacobian is not all zeros
    from_s, from_t = torch.autograd.functional.jacobian(rows, (s, t))
    P = propagator.matrix(s, t)
    torch.testing.assert_close(from_t.movedim(-1, 0), P @ varying(t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(from_s.movedim(-1, 0), -varying(s) @ P, rtol=1e-9, atol=1e-12)


def test_varying_rates_have_gradients():
    scale = torch.tensor(1.3, dtype=F64, requires_grad=True)
    x, s, t = torch.tensor([0, 3]), times(0.0, 0.21), times(1.4, 0.24).requires_grad_()

    def rows(scale, t):
        chain = Propagator(lambda at: scale * varying(at), HORIZON, 16)
        return chain.rows(x, s, t), chain.columns(x, s, t)

    assert torch.autograd.gradcheck(rows, (scale, t))


def test_rates_may_jump_at_edges_only():
    step = lambda at: lambda t: torch.where(t < at, 1.0, 20.0).to(F64)[:, None, None] * BASE[0]
    with pytest.raises(ValueError, match="not smooth enough"):
        panels_for(step(0.7071), 1.0, 1e-13)
    P = Propagator(step(0.75), 1.0, panels_for(step(0.75), 1.0)).matrix(times(0.6), times(0.8))
    exact = Uniformized(BASE[0]).matrix(times(0.15 + 20 * 0.05))
    torch.testing.assert_close(P, exact, rtol=1e-11, atol=0)


def test_a_narrow_peak_is_not_overlooked():
    def peak(t):
        return (1 + 1e3 * torch.exp(-((t - 0.3) ** 2) / 2e-4))[:, None, None] * BASE[0]

    P = Propagator(peak, 1.0, panels_for(peak, 1.0)).matrix(times(0.0), times(0.5))
    tau = 0.5 + 1e3 * math.sqrt(2e-4 * math.pi)
    torch.testing.assert_close(P, Uniformized(BASE[0]).matrix(times(tau)), rtol=1e-9, atol=0)


def test_times_beyond_the_horizon_are_not_answered(propagator):
    P = propagator.matrix(times(0.0, 1.0, 2.5), times(2.0, 2.0 + 1e-9, 3.0))
    assert P.isnan().all(-1).all(-1).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="power of two"):
        Propagator(varying, HORIZON, 48)


def test_varying_chains_compile_without_a_graph_break(propagator):
    x, s, t = torch.tensor([[0, 1], [2, 4]]), times(0.4, 0.7), times(0.41, 1.9)
    verbs = lambda x, s, t: (propagator.rows(x, s, t), propagator.columns(x, s, t))
    compiled = torch.compile(verbs, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, s, t), verbs(x, s, t))


def test_many_panels_cost_little_more_than_few():
    """A path through the tree grows with the logarithm; the bound is loose for busy machines."""
    x, s, t = torch.tensor([0, 3]), times(0.0, 0.21), times(1.4, 0.24)
    few, many = Propagator(varying, HORIZON, 16), Propagator(varying, HORIZON, 4096)
    assert fastest(lambda: many.rows(x, s, t), 20) < 4 * fastest(lambda: few.rows(x, s, t), 20)


class Counted:
    """Counts the times at which rates are asked for."""

    def __init__(self, scale=1.0):
        self.scale, self.count = torch.tensor(scale, dtype=F64), 0

    def __call__(self, t):
        self.count += t.shape[0]
        return self.scale * varying(t)


def test_a_declared_chain_keeps_its_tree():
    Q = Counted()
    chain, x = RateMatrix(Q), torch.tensor([0, 3])
    with torch.inference_mode():
        chain.transition(x, 0.1, 0.9)
    before = Q.count
    t = times(0.3, 0.8).requires_grad_()
    law = chain.transition(x, 0.1, t)
    assert Q.count == before + 2 * 2 * 6  # two steps with six nodes for each of two
    (slope,) = torch.autograd.grad(law.log_prob(x).exp().sum(), t)
    P = Propagator(varying, 1.0, 64).matrix(times(0.1, 0.1), t.detach())
    expected = (P @ varying(t.detach()))[[0, 1], x, x]
    torch.testing.assert_close(slope, expected, rtol=1e-8, atol=0)
    later = chain.transition(x, 0.1, 3.5).log_prob(x).exp()
    exact = positive_panels(varying, 0.1, 3.5)[x, x]
    torch.testing.assert_close(later, exact, rtol=1e-9, atol=0)
    with pytest.raises(Unsolved, match="finite own times"):
        chain.transition(x, 0.0, math.inf)


def test_rates_that_are_learned_rebuild_the_tree_and_its_panels():
    Q, x, t = Counted(), torch.tensor([0, 3]), times(0.5, 0.9)
    Q.scale.requires_grad_()
    chain = RateMatrix(Q)
    for scale in (1.0, 8.0):
        Q.scale.data.fill_(scale)
        ours = chain.transition(x, 0.0, t).log_prob(x).sum()
        (slope,) = torch.autograd.grad(ours, Q.scale)
        fine = Propagator(lambda at: Q.scale * varying(at), 1.0, 512)
        theirs = fine.matrix(torch.zeros_like(t), t)[[0, 1], x, x].log().sum()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
        (expected,) = torch.autograd.grad(theirs, Q.scale)
        torch.testing.assert_close(slope, expected, rtol=1e-7, atol=0)


def test_gradients_of_random_rates_are_those_of_the_exponential():
    """Also where rounding makes the shares of the fastest state exceed one."""
    torch.manual_seed(0)
    for size in (3, 4, 6, 9) * 15:
        rates = torch.rand(size, size, dtype=torch.float64).fill_diagonal_(0.0).requires_grad_()
        Q = rates - rates.sum(1).diag()
        chain, one = Uniformized(Q), torch.ones(size, dtype=torch.float64)
        P = chain.rows(torch.arange(size), one)
        found = torch.autograd.grad(P.log().sum(), rates)[0]
        goal = torch.autograd.grad(torch.matrix_exp(Q).log().sum(), rates)[0]
        off = ~torch.eye(size, dtype=torch.bool)
        torch.testing.assert_close(found[off], goal[off], rtol=1e-9, atol=1e-9)
