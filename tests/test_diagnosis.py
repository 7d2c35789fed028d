r"""What `explain` says of linear diffusions, against their laws."""

import math

import pytest
import torch
from pyro.distributions import Normal

import discdiff as dd
from discdiff import zoo
from discdiff.clock import Constant, Linear
from discdiff.diagnosis import controllability_rank, noise_orders

pytestmark = pytest.mark.usefixtures("float64")
MDM = Linear(0.1, 10.0)


def plan(process):
    (found,) = dd.explain(process).plans
    return found


def told(process):
    return plan(process).diagnosis


def rows(process):
    return dict(plan(process).rows())


def chain(length):
    """A chain of coordinates with friction and noise at its end."""
    Q = torch.ones(length - 1).diag(-1) - torch.ones(length - 1).diag(1)
    D = torch.zeros(length).index_fill(0, torch.tensor(length - 1), 1.0).diag()
    return dd.Langevin(Q, D, torch.eye(length))


def uncontrollable():
    """The second coordinate neither has noise nor sees the first."""
    return dd.Linear([[-1.0, 1.0], [0.0, -2.0]]) + dd.Noise([[1.0], [0.0]])


ORDERS = {
    "pure OU": (zoo.vp(), (1,)),
    "CLD": (zoo.cld(), (3, 1)),
    "PSLD": (zoo.psld(), (1, 1)),
    "ALDA": (zoo.alda(), (5, 3, 1)),
    "MALDA": (zoo.malda(), (3, 1, 1)),
    "a chain of five": (chain(5).on(Constant(1.0)), (9, 7, 5, 3, 1)),
    "uncontrollable": (uncontrollable().on(Constant(1.0)), (1, None)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_noise_enters_at_its_order(name):
    """The order declared is the slope of log Σ_ii in the process's own time near 0."""
    process, orders = ORDERS[name]
    assert told(process).orders == orders
    (leaf,) = process.leaves(torch.ones(1))
    core = getattr(leaf.core, "core", leaf.core)
    size = len(orders)
    zero = torch.zeros(2, size) if size > 1 else torch.zeros(2)
    variance = core.transition(zero, 0.0, torch.tensor([1e-4, 2e-4])).variance.reshape(2, -1)
    for i, order in enumerate(orders):
        if order is None:
            assert float(variance[:, i].max()) < 1e-200
        else:
            assert abs(float((variance[1, i] / variance[0, i]).log2()) - order) < 5e-3


def test_rows_say_it_in_words():
    assert rows(zoo.cld())["noise"] == (
        "enters coordinate 1 as Λ³, coordinate 2 as Λ; controllable (rank 2 of 2)"
    )
    assert "coordinate 1 as Λ⁵" in rows(zoo.alda())["noise"]
    assert rows(zoo.vp())["noise"] == "enters as Λ"
    assert rows(uncontrollable().on(Constant(1.0)))["noise"] == (
        "enters coordinate 1 as Λ, coordinate 2 never; not controllable (rank 1 of 2)"
    )
    assert rows(dd.Linear(-1.0))["noise"] == "there is none"


@pytest.mark.parametrize("process", [zoo.cld(), zoo.ve(), zoo.sub_vp(), zoo.mdm(4)], ids=repr)
def test_the_table_keeps_its_width(process):
    assert max(map(len, str(dd.explain(process)).splitlines())) <= 99


def test_a_direction_without_noise_is_counted():
    """Noise enters both coordinates, but only along one direction that the drift keeps."""
    found = told((dd.Linear(-torch.eye(2)) + dd.Noise([[1.0], [1.0]])).on(Constant(1.0)))
    assert found.orders == (1, 1) and found.rank == 1
    assert told(zoo.cld()).rank == 2 and told(zoo.alda()).rank == 3


@pytest.mark.parametrize("size", [2, 3, 5])
def test_orders_and_rank_do_not_depend_on_units(size):
    A = torch.randn(size, size).triu(-1)
    B = torch.zeros(size, 1)
    B[-1] = 1.0
    A = A.mT.flip(0, 1)  # a chain in which each coordinate is moved by the next
    expected = noise_orders(A, B), controllability_rank(A, B)
    assert expected[1] == size
    for unit in (1e-6, 1e6):
        assert (noise_orders(unit * A, B), controllability_rank(unit * A, B)) == expected


def test_stability_and_the_stationary_law():
    found = told(zoo.cld(0.25))
    assert found.abscissa == pytest.approx(-2.0, abs=1e-6)  # a double eigenvalue −2/Γ
    torch.testing.assert_close(found.stationary, torch.diag(torch.tensor([1.0, 0.25])))
    assert told(zoo.vp()).abscissa == -0.5 and rows(zoo.vp())["drift"].endswith("stable")
    spreading = told(zoo.ve())
    assert spreading.abscissa == 0.0 and spreading.stationary is None
    assert "not stable" in rows(zoo.ve())["drift"]
    free = dd.Linear([[0.0, 1.0], [0.0, -1.0]]) + dd.Noise([[0.0], [1.0]])
    assert told(free.on(Constant(1.0))).stationary is None


def test_the_lift_is_held_against_the_stationary_law():
    assert told(zoo.cld()).lift == pytest.approx(0.04) and not told(zoo.cld()).settled
    matched = zoo.cld(share=1.0)
    assert told(matched).settled
    assert rows(matched)["lift"] == "auxiliaries start from their stationary law"
    off = chain(2).on(Constant(1.0)).lift(Normal(1.0, 1.0))
    assert not told(off).settled
    assert told(zoo.vp()).settled is None and "lift" not in rows(zoo.vp())


PUBLISHED = {  # what is left, and the KL per entry at x_0 = 1, of the paper's clock
    "VP": (zoo.vp(MDM), 0.080, 3.2e-3),
    "CLD": (zoo.cld(1.0, MDM, 0.01), 0.039, 1.3e-3),
    "MALDA": (zoo.malda(), 0.0066, 4e-5),
    "ALDA": (zoo.alda(), 0.241, 4.9e-2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_left_at_the_end(name):
    process, left, kl = PUBLISHED[name]
    found = told(process)
    assert found.end == pytest.approx(5.05)
    assert found.left == pytest.approx(left, rel=0.02)
    assert found.prior_kl == pytest.approx(kl, rel=0.05)
    whole = dd.likelihood.prior_kl(process, torch.ones(1))
    assert float(whole) == pytest.approx(found.prior_kl)


def test_noise_that_spreads_is_held_against_the_law_from_zero():
    found = told(zoo.ve())
    assert found.left == 1.0 and found.variance == pytest.approx(50.0**2 - 0.01**2)
    assert found.prior_kl == pytest.approx(1 / (2 * found.variance))
    endless = told(zoo.rectified_flow())
    assert math.isinf(endless.end) and endless.prior_kl < 1e-30 and math.isinf(endless.variance)
    assert told(zoo.cosine()).variance == 1.0 and told(zoo.cosine()).left < 1e-15


def test_divergence_where_noise_does_not_reach_is_infinite():
    assert math.isinf(told(uncontrollable().on(Constant(1.0))).prior_kl)


def test_functions_of_time_are_seen_at_their_end_only():
    found = told(zoo.sub_vp())
    assert found.abscissa is None and found.orders is None
    assert found.left == pytest.approx(math.exp(-10.05 / 2))
    assert set(rows(zoo.sub_vp())) & {"drift", "noise", "lift"} == set()


def test_matrices_per_entry_and_own_time():
    A = -torch.eye(2) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    found = told((dd.Linear(A) + dd.Noise(1.0)).on(Constant(1.0)))
    assert found.left == pytest.approx(math.exp(-1.0)) and found.orders is None
    assert told(dd.Linear(-1.0) + dd.Noise(1.0)).end is None


def test_other_processes_have_no_diagnosis():
    assert told(dd.Death()) is None
    assert told(dd.Field(lambda x, t: -x) + dd.Noise(1.0)) is None
