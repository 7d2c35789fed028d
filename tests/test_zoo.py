r"""The processes of the zoo against the closed forms of their papers, written out by hand."""

import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf

import discdiff as dd
from discdiff import zoo
from discdiff.clock import Constant, Geometric, Linear, LogLinear, Power
from discdiff.zoo.blurring import CosineBasis

pytestmark = pytest.mark.usefixtures("float64")
F64 = torch.float64
X = torch.tensor([[1.0, 0.5], [-2.0, 0.3], [0.1, 4.0], [1.5, -1.0]], dtype=F64)
TIMES = torch.tensor([1e-5, 0.1, 0.6, 1.0], dtype=F64)
T = TIMES[:, None]
CLOCKS = [Linear(0.1, 20.0), Constant(3.0), Geometric(0.2, 2.0), Power(1.5, 2.0)]


def same(law, mean, variance, rtol=1e-12, atol=0.0):
    torch.testing.assert_close(law.mean, mean.expand(law.mean.shape), rtol=rtol, atol=1e-14)
    expected = variance.expand(law.variance.shape)
    torch.testing.assert_close(law.variance, expected, rtol=rtol, atol=atol)


def test_everything_is_listed():
    assert all(callable(getattr(dd.zoo, name)) for name in zoo.__all__)
    assert len(zoo.__all__) == len(set(zoo.__all__)) == 27


# -- reals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", CLOCKS, ids=repr)
def test_vp_and_sub_vp(clock):
    B = clock(T)
    same(zoo.vp(clock).marginal(X, TIMES), (-B / 2).exp() * X, -torch.expm1(-B))
    same(zoo.sub_vp(clock).marginal(X, TIMES), (-B / 2).exp() * X, torch.expm1(-B) ** 2)


def test_vp_by_default_is_the_papers():
    B = 0.1 * T + 19.9 * T**2 / 2
    same(zoo.vp().marginal(X, TIMES), (-B / 2).exp() * X, -torch.expm1(-B))
    assert torch.allclose(zoo.vp().limit((4, 2)).variance, torch.ones(4, 2))


def test_sub_vp_is_a_sum_on_two_clocks_and_scaled_noise():
    r"""As scaled noise its clock is :math:`(1 - e^{-B})^2 e^B = 4 \sinh^2(B / 2)`."""
    B, s = CLOCKS[0], TIMES / 2
    clock = dd.clock.Function(lambda t: 4 * torch.sinh(B(t) / 2) ** 2)
    scaled = dd.Noise(1.0).on(clock).scaled(lambda t: (-B(t) / 2).exp())
    law = scaled.transition(X, s, TIMES)
    same(zoo.sub_vp(B).transition(X, s, TIMES), law.mean, law.variance, rtol=1e-9)


@pytest.mark.parametrize("ends", [(0.01, 50.0), (0.1, 5.0)])
def test_ve_has_no_noise_at_the_start(ends):
    low, high = ends
    ratio = mpf(high) / mpf(low)
    exact = [float(mpf(low) ** 2 * (ratio ** (2 * mpf(t)) - 1)) for t in TIMES.tolist()]
    same(zoo.ve(*ends).marginal(X, TIMES), X, torch.tensor(exact)[:, None], rtol=1e-11)


@pytest.mark.parametrize("sigma", [80.0, 3.0])
def test_edm(sigma):
    process = zoo.edm(sigma)
    same(process.marginal(X, TIMES), X, (sigma * T) ** 2)
    low, high = sigma * T / 2, sigma * T
    same(process.transition(X, TIMES / 2, TIMES), X, high**2 - low**2)
    x_t = X + high * torch.randn_like(X)
    step = process._bridge(dd.estimates.Mean(0.3 * X), x_t, TIMES / 2, TIMES, 0.0).mean
    euler = x_t + (low - high) * (x_t - 0.3 * X) / high
    torch.testing.assert_close(step, euler, rtol=1e-12, atol=1e-12)


def test_vdm_from_gamma():
    process = zoo.vdm(-8.0, 4.0, panels=6)
    with torch.no_grad():
        process.clock.logits.copy_(torch.randn(6))
    share = process.clock.logits.softmax(0).detach()
    gamma = lambda t: -8 + 12 * float(np.interp(t, np.arange(7) / 6, [0, *share.cumsum(0)]))
    g0, g1 = (torch.tensor([gamma(float(t)) for t in v])[:, None] for v in (TIMES / 3, TIMES))
    a0, a1, v0, v1 = (v.sigmoid() for v in (-g0, -g1, g0, g1))
    law = process.transition(X, TIMES / 3, TIMES)
    same(law, (a1 / a0).sqrt() * X, v1 - a1 / a0 * v0, rtol=1e-8, atol=1e-15)
    start = torch.tensor(-8.0).sigmoid()
    from_data = process.marginal(X * (1 - start).sqrt(), TIMES)
    noise = (from_data.mean / X / (1 - start).sqrt()) ** 2 * start
    same(from_data, a1.sqrt() * X, v1 - noise, rtol=1e-12)
    assert torch.allclose(from_data.variance + noise, v1, rtol=1e-12)


def test_the_schedule_of_vdm_is_learned():
    process = zoo.vdm(panels=4)
    loss = dd.path_kl(process, dd.heads.Mean(lambda x, t: 0 * x), X).mean()
    (grad,) = torch.autograd.grad(loss, list(process.parameters()))
    assert bool(grad.isfinite().all()) and bool((grad != 0).any())


def test_rectified_flow_and_the_head_of_its_literature():
    """With û − u = 1/2 in both entries the integrand is (1 − t) / t · |û − u|²."""
    process, t = zoo.rectified_flow(), TIMES.clamp(max=0.9)
    same(process.marginal(X, TIMES), (1 - T) * X, T**2)
    epsilon, column = torch.randn_like(X), t[:, None]
    x_t = (1 - column) * X + column * epsilon
    head = dd.heads.Mean(lambda x, t: x - t[:, None] * (epsilon - X + 0.5))
    loss = dd.loss(process, head, X, t, x_t=x_t)
    torch.testing.assert_close(loss, (1 - t) / t / 2, rtol=1e-7, atol=0)


def test_cosine_is_scaled_noise():
    angle = math.pi / 2 * T
    law = zoo.cosine().marginal(X, TIMES)
    torch.testing.assert_close(law.mean, angle.cos() * X, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        law.variance, angle.sin().square().expand(X.shape), rtol=1e-12, atol=0
    )
    clock = dd.clock.Function(lambda t: torch.tan(math.pi / 2 * t) ** 2)
    scaled = dd.Noise(1.0).on(clock).scaled(lambda t: torch.cos(math.pi / 2 * t))
    law = scaled.transition(X, TIMES / 2, TIMES)
    found = zoo.cosine().transition(X, TIMES / 2, TIMES)
    same(found, law.mean, law.variance, rtol=1e-11)


@pytest.mark.parametrize("steps", [10, 1000])
def test_ddpm_agrees_with_its_chain(steps):
    beta = np.linspace(1e-4, 0.02, steps)
    bars = np.cumprod(1 - beta)
    process = zoo.ddpm(steps)
    for k in (1, 2, steps // 2, steps):
        law = process.marginal(X, k / steps)
        bar = bars[k - 1]
        same(law, math.sqrt(bar) * X, torch.tensor(1 - bar), rtol=1e-11)
        if k > 1:  # the posterior of step k, eq. 7
            x_k, before, b = torch.randn_like(X), bars[k - 2], beta[k - 1]
            mean = math.sqrt(before) * b / (1 - bar) * X
            mean = mean + math.sqrt(1 - b) * (1 - before) / (1 - bar) * x_k
            law = process.bridge(X, x_k, (k - 1) / steps, k / steps)
            same(law, mean, torch.tensor((1 - before) / (1 - bar) * b), rtol=1e-9)


@pytest.mark.parametrize("size", [(2, 3), (8, 8)])
def test_blurring_fades_each_frequency(size):
    height, width = size
    process, clock = zoo.blurring(*size), Linear(0.1, 20.0)
    images = torch.randn(4, 2, height, width)
    flat = process.transform.inv(images)
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rates = math.pi**2 * ((i / height) ** 2 + (j / width) ** 2).double().flatten()
    sin = torch.sin(math.pi / 2 * TIMES)[:, None, None]
    share = (1 - 1e-3) * (-rates * 20**2 * sin**4 / 2).exp() + 1e-3
    B = clock(TIMES)[:, None, None]
    law = process.process.marginal(flat, TIMES)
    torch.testing.assert_close(law.mean, (-B / 2).exp() * share * flat, rtol=1e-9, atol=1e-12)
    variance = -torch.expm1(-B).expand(law.variance.shape)
    torch.testing.assert_close(law.variance, variance, rtol=1e-8, atol=0)
    assert process.marginal(images, TIMES).sample().shape == images.shape
    assert process.prior((4, 2, height, width)).sample().shape == images.shape


def test_networks_of_blurring_speak_of_images():
    """Means, noise, velocities and scores turn with the basis: all are the same knowledge."""
    process, images, t = zoo.blurring(3, 4), torch.randn(3, 3, 4), torch.tensor([0.1, 0.3, 0.6])
    exact = dd.Exact(process, images)
    x = process.marginal(images, t).sample()
    loss = lambda head: dd.loss(process, head, images, t, x_t=x)
    mean = exact.as_(dd.heads.Mean)(x, t).value
    weights = torch.stack([process.marginal(v.expand(3, 3, 4), t).log_prob(x) for v in images], 1)
    by_hand = torch.einsum("ba,ahw->bhw", weights.softmax(1), images)
    assert torch.allclose(mean, by_hand, atol=1e-5)
    for kind in (dd.heads.Mean, dd.heads.Epsilon, dd.heads.Velocity, dd.heads.Score):
        said = exact.as_(kind)(x, t).value
        assert said.shape == x.shape
        torch.testing.assert_close(
            loss(kind(lambda *_, v=said: v)), loss(exact), rtol=1e-3, atol=1e-4
        )
    score = exact.as_(dd.heads.Score)(x, t).value
    y = x.clone().requires_grad_(True)
    each = [process.marginal(v.expand(3, 3, 4), t).log_prob(y) for v in images]
    (gradient,) = torch.autograd.grad(torch.stack(each).logsumexp(0).sum(), y)
    torch.testing.assert_close(score, gradient, rtol=1e-3, atol=1e-3)
    drawn = dd.sample(process, dd.heads.Epsilon(lambda x, t: 0.1 * x), (2, 3, 4), steps=3)
    assert drawn.shape == (2, 3, 4) and bool(drawn.isfinite().all())


def test_blurring_is_trained_and_sampled():
    process, images = zoo.blurring(4, 4), torch.randn(3, 4, 4)
    head = dd.heads.Mean(lambda x, t: 0 * x.flatten(-2))
    with pytest.raises(ValueError, match="shape"):
        dd.loss(process, head, images, 0.5)
    exact = dd.Exact(process, images)
    assert float(dd.loss(process, exact, images, 0.02).max()) < 1e-6  # still far apart
    x = dd.sample(process, exact, (5, 4, 4), steps=10)
    assert float((x[:, None] - images).abs().amax((-1, -2)).amin(1).max()) < 1e-5
    assert bool(dd.elbo(process, exact, images).isfinite().all())


def test_the_cosine_basis_is_orthonormal_and_is_scipys():
    fft = pytest.importorskip("scipy.fft")
    basis, images = CosineBasis(4, 6), torch.randn(2, 4, 6)
    found = basis.inv(images).reshape(2, 4, 6)
    truth = torch.from_numpy(fft.dctn(images.numpy(), axes=(1, 2), norm="ortho"))
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(basis(basis.inv(images)), images, rtol=1e-12, atol=1e-13)


# -- auxiliary variables --------------------------------------------------------------------------


def moments(law):
    """Mean (k,) and covariance (k, k) of the first entry."""
    return law.mean[0], law.covariance_matrix[0]


def start(process, t):
    return moments(process.marginal(torch.ones(1), t))


def phi_of_cld(B, g):
    e = mpmath.exp(-2 * g * B)
    return e, mpmath.matrix([[1 + 2 * g * B, 4 * g**2 * B], [-B, 1 - 2 * g * B]]) * e


def cld_by_hand(mass, B, V):
    """The closed forms of the paper's appendix, in 60 digits."""
    with mpmath.workdps(60):
        mass, B, V = mpf(mass), mpf(B), mpf(V)
        g = 1 / (2 * mpmath.sqrt(mass))
        e, phi = phi_of_cld(B, g)
        E, G = mpmath.expm1(4 * g * B), 1 / g
        xx = E - 4 * g * B - 8 * g**2 * B**2 + 16 * g**4 * B**2 * V
        xv = 4 * g**2 * B * V + 4 * g * B**2 - 8 * g**3 * B**2 * V
        vv = G**2 / 4 * E + G * B - 4 * g * B * V + 4 * g**2 * B**2 * V + V - 2 * B**2
        cov = [[float(e**2 * v) for v in row] for row in ([xx, xv], [xv, vv])]
        mean = [float(phi[0, 0]), float(phi[1, 0])]
    return torch.tensor(mean), torch.tensor(cov)


@pytest.mark.parametrize("mass", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("clock", [Constant(4.0), Linear(0.1, 10.0), Power(1.5, 2.0)], ids=repr)
def test_cld(mass, clock):
    process = zoo.cld(mass, clock, share=0.04)
    for t in (1e-4, 1e-2, 0.3, 1.0):
        B = float(clock(torch.tensor(t)))
        mean, cov = start(process, t)
        true_mean, true_cov = cld_by_hand(mass, B, 0.04 * mass)
        torch.testing.assert_close(mean, true_mean, rtol=2e-13, atol=2e-13)
        torch.testing.assert_close(cov, true_cov, rtol=2e-11, atol=2e-13)


@pytest.mark.parametrize("numbers", [(0.01, 4.01), (0.02, 4.02), (0.0, 4.0), (1.0, 3.0)])
@pytest.mark.parametrize("clock", [Constant(8.0), Linear(0.1, 10.0)], ids=repr)
def test_psld(numbers, clock):
    r"""Φ is the paper's; the covariance is :math:`S - Φ S Φ^T`, and the start's, in 60 digits."""
    gamma, nu = numbers
    process = zoo.psld(gamma, nu, clock)
    for t in (1e-4, 0.3, 1.0):
        with mpmath.workdps(60):
            G, n, B = mpf(gamma), mpf(nu), mpf(float(clock(torch.tensor(t))))
            first = [1 + (n - G) * B / 4, (G - n) ** 2 * B / 8]
            phi = mpmath.matrix([first, [-B / 2, 1 + (G - n) * B / 4]])
            phi = phi * mpmath.exp(-(n + G) * B / 4)
            M = 4 / (G - n) ** 2
            S, V = mpmath.diag([1, M]), mpmath.diag([0, mpf(0.04) * M])
            cov = S - phi * S * phi.T + phi * V * phi.T
            true_mean = torch.tensor([float(phi[0, 0]), float(phi[1, 0])])
            true_cov = torch.tensor([[float(cov[i, j]) for j in (0, 1)] for i in (0, 1)])
        mean, cov = start(process, t)
        torch.testing.assert_close(mean, true_mean, rtol=6e-13, atol=6e-13)
        torch.testing.assert_close(cov, true_cov, rtol=6e-11, atol=6e-13)


def test_psld_without_noise_in_the_data_is_cld_at_half_the_clock():
    for t in (0.01, 0.5):
        a = start(zoo.psld(0.0, 4.0, Constant(8.0)), t)
        b = start(zoo.cld(0.25, Constant(4.0)), t)
        for found, truth in zip(a, b, strict=True):
            torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-15)


def matrices(name, variance):
    """Q and D as the table of the code has them."""
    root = 2 * variance**0.5
    if name == "alda":
        Q = [[0, -variance, 0], [variance, 0, -1], [0, 1, 0]]
        return Q, [0, 0, variance]
    return [[0, -1, -1], [1, 0, -1], [1, 1, 0]], [0, root, root]


@pytest.mark.parametrize("variance", [1.0, 0.25])
@pytest.mark.parametrize("name", ["alda", "malda"])
def test_diffusions_with_three_coordinates(name, variance):
    process = getattr(zoo, name)(variance)
    Q, D = matrices(name, variance)
    for t in (1e-2, 0.4, 1.0):
        with mpmath.workdps(60):
            S = mpmath.diag([1, mpf(variance), mpf(variance)])
            A = -(mpmath.matrix(Q) + mpmath.diag([mpf(d) for d in D])) * S**-1
            phi = mpmath.expm(A * mpf(float(Linear(0.1, 10.0)(torch.tensor(t)))))
            V = mpmath.diag([0, mpf(0.1) ** 2, mpf(0.1) ** 2])
            cov = S - phi * S * phi.T + phi * V * phi.T
            true_mean = torch.tensor([float(phi[i, 0]) for i in range(3)])
            true_cov = torch.tensor([[float(cov[i, j]) for j in range(3)] for i in range(3)])
        mean, cov = start(process, t)
        torch.testing.assert_close(mean, true_mean, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(cov, true_cov, rtol=1e-10, atol=1e-13)


def test_what_is_left_of_the_data_at_the_clock_of_the_paper():
    clock = Linear(0.1, 10.0)
    left = {
        "vp": (zoo.vp(clock).marginal(torch.ones(1, 1), 1.0).mean[0, 0], 0.080),
        "cld": (start(zoo.cld(1.0, clock, 0.01), 1.0)[0][0], 0.039),
        "alda": (start(zoo.alda(), 1.0)[0][0], 0.241),
        "malda": (start(zoo.malda(), 1.0)[0][0], 0.0066),
    }
    for name, (found, truth) in left.items():
        assert abs(float(found) - truth) < 6e-4 * max(1.0, truth), name


@pytest.mark.parametrize("size", [2, 4])
def test_a_learned_diffusion_keeps_its_stationary_law(size):
    process = zoo.mdm(size)
    law = process.limit((3,))
    torch.testing.assert_close(law.covariance_matrix[0], torch.eye(size))
    x_0, head = torch.randn(8), dd.heads.Epsilon(lambda x, t: 0 * x)
    free = [p for p in process.parameters() if p.requires_grad]
    assert [p.numel() for p in free] == [size * (size - 1) // 2, size]
    optimiser = torch.optim.SGD(free, 1e-4)
    dd.path_kl(process, head, x_0).mean().backward()
    assert all(bool((p.grad != 0).any()) for p in free)
    optimiser.step()
    Q, D, S = (getattr(process.process.process.recipe, k) for k in "QDS")
    assert torch.equal(Q, -Q.mT) and bool((D.diagonal() > 0).all())
    torch.testing.assert_close(S, torch.eye(size))
    torch.testing.assert_close(process.limit((3,)).covariance_matrix[0].detach(), torch.eye(size))


# -- categories and counts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "survival"),
    [
        (zoo.d3pm_uniform, lambda t: torch.cos(math.pi / 2 * t) ** 2),
        (zoo.udlm, lambda t: 1 - t),
        (lambda K: zoo.d3pm_uniform(K, Constant(2.0)), lambda t: (-2 * t).exp()),
    ],
)
def test_uniform_replacement(make, survival):
    size, x = 5, torch.tensor([0, 3, 4, 1])
    kept = survival(TIMES)[:, None]
    truth = kept * torch.eye(size)[x] + (1 - kept) / size
    torch.testing.assert_close(make(size).marginal(x, TIMES).probs, truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("make", [zoo.d3pm_absorbing, zoo.mdlm, zoo.md4])
def test_masking(make):
    x, s = torch.tensor([0, 3, 2, 1]), TIMES / 2
    eye, mask = torch.eye(5), torch.eye(5)[4]
    kept = (1 - TIMES)[:, None]
    probs = make(5, 4).marginal(x, TIMES).probs
    torch.testing.assert_close(probs, kept * eye[x] + (1 - kept) * mask, rtol=1e-12, atol=1e-15)
    # The reverse step of a masked token: unmasked with chance (t − s) / t.
    law = make(5, 4).bridge(x, torch.full((4,), 4), s, TIMES)
    bridge = torch.stack([law.log_prob(torch.full((4,), k)) for k in range(5)], 1).exp()
    shown = ((TIMES - s) / TIMES)[:, None]
    torch.testing.assert_close(bridge, shown * eye[x] + (1 - shown) * mask, rtol=1e-9, atol=1e-12)


def test_absorbing_is_the_chain_of_the_paper():
    """With T steps, step k masks with probability 1 / (T − k + 1)."""
    steps, process, x = 8, zoo.d3pm_absorbing(3, 2), torch.tensor([0])
    for k in range(1, steps + 1):
        probs = process.transition(x, (k - 1) / steps, k / steps).probs[0]
        assert abs(float(probs[2]) - 1 / (steps - k + 1)) < 1e-12


def test_clocks_can_be_chosen():
    x = torch.tensor([0, 1])
    probs = zoo.md4(3, 2, dd.clock.Cosine()).marginal(x, 0.5).probs
    torch.testing.assert_close(probs[:, 2], torch.full((2,), 0.5))
    assert zoo.blackout(LogLinear()).marginal(torch.tensor([8.0]), 0.75).mean == 2.0


def test_blackout():
    c, x = 15.0, torch.tensor([255.0, 3.0, 10.0, 0.0])
    sigma = lambda u: 1 / (1 + math.exp(-u))
    share = lambda t: (sigma(c * (1 - 2 * t)) - sigma(-c)) / (sigma(c) - sigma(-c))
    law = zoo.blackout().marginal(x, TIMES)
    p = torch.tensor([share(float(t)) for t in TIMES])
    torch.testing.assert_close(law.mean, p * x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(law.variance, p * (1 - p) * x, rtol=1e-9, atol=1e-9)


# -- all of them ----------------------------------------------------------------------------------

EVERY = {
    "reals": ["ddpm", "cosine", "vp", "sub_vp", "ve", "vdm", "edm", "rectified_flow"],
    "lifted": ["cld", "psld", "alda", "malda", "mdm"],
}


@pytest.mark.parametrize("name", EVERY["reals"])
def test_scalar_processes_pass_every_law(name):
    process = getattr(zoo, name)()
    report = dd.check(process, torch.tensor([-1.0, 0.5]))
    assert report, str(report)


@pytest.mark.parametrize("name", EVERY["reals"] + EVERY["lifted"])
def test_each_is_trained_and_sampled(name):
    process = getattr(zoo, name)()
    x_0 = torch.tensor([-1.0, 0.5])
    exact = dd.Exact(process, x_0)
    t, w = dd.times(process, x_0.repeat(8))
    assert bool((w * dd.loss(process, exact, x_0.repeat(8), t)).isfinite().all())
    x = dd.sample(process, exact, (6,), steps=30)
    assert float((x[:, None] - x_0).abs().amin(1).max()) < 1e-3
    assert name in ("vdm", "mdm") or not list(process.parameters())


# -- other noise ----------------------------------------------------------------------------------


def test_ddgm_is_the_papers_gamma_law():
    theta, betas = 0.3, [0.1, 0.2, 0.3]
    walk, kept = zoo.ddgm(theta, betas), 0.9 * 0.8 * 0.7
    shape = (1 - kept) / kept / theta**2
    scale = math.sqrt(kept) * theta
    x = torch.linspace(-0.3, 2.5, 9, dtype=F64)[:, None]
    law = torch.distributions.Gamma(torch.tensor(shape, dtype=F64), 1 / scale)
    goal = law.log_prob(x - math.sqrt(kept) + shape * scale)
    found = walk.marginal(torch.ones_like(x), 3).log_prob(x)
    assert torch.allclose(found, goal[:, 0], rtol=1e-11)
    assert float(walk.marginal(X, 3).variance.max()) == pytest.approx(1 - kept, rel=1e-12)


def test_the_bridge_of_ddgm_is_a_share_of_beta_law():
    """(C8) Bayes' rule with the paper's three gamma laws."""
    walk = zoo.ddgm(0.3, [0.1, 0.2, 0.3])
    x_0, x_t = torch.full((7, 1), 0.2, dtype=F64), torch.full((7, 1), 0.6, dtype=F64)
    y = torch.linspace(0.1, 0.7, 7, dtype=F64)[:, None]
    bayes = walk.marginal(x_0, 1).log_prob(y) + walk.transition(y, 1, 3).log_prob(x_t)
    found = walk.bridge(x_0, x_t, 1, 3).log_prob(y)
    assert torch.allclose(found, bayes - walk.marginal(x_0, 3).log_prob(x_t), atol=1e-9)


def test_jump_thins_poisson_counts_to_poisson_counts():
    """(C8) z_s given z_t and the mean is z_t + Poisson, by Bayes' rule on z_0."""
    mean, s, t = 6.0, 0.3, 0.7
    n = torch.arange(60.0, dtype=F64)
    prior = torch.distributions.Poisson(torch.tensor(mean, dtype=F64)).log_prob(n)
    seen = torch.full_like(n, 2.0)
    likely = zoo.jump().marginal(n, t).log_prob(seen)
    weights = (prior + likely).softmax(0)
    law = zoo.jump()
    for k in (2.0, 3.0, 5.0):
        bridge = law.bridge(n.clamp(min=2), seen, s, t).log_prob(torch.full_like(n, k))
        found = float((weights * bridge.exp()).sum())
        more = torch.distributions.Poisson(torch.tensor((t - s) * mean, dtype=F64))
        assert found == pytest.approx(float(more.log_prob(torch.tensor(k - 2.0)).exp()), rel=1e-9)
