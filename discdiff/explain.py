"""The plan: which engine solves which part of a process, and why.

A process is a tree whose leaves are sums of terms (see `process`). `explain` asks each leaf for
its engine and prints what it answers, so that a choice that was made by structure can be read. Of
linear diffusions it says what follows from the numbers alone (see `diagnosis`).
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .chains import Stepwise
from .diagnosis import Diagnosis, diagnose, shape_of
from .estimates import (
    Conditional,
    Epsilon,
    Estimate,
    LeaveOneOut,
    Logits,
    Mean,
    Missing,
    Normal,
    Posterior,
    Ratio,
    Score,
    Turnover,
    Velocity,
)
from .loss import sum_over_terms
from .process import Chain, Generator, Leaf, Process, kinds_of, moving_terms
from .solve import Engine, Unsolved, covering, engine_for
from .terms import Term
from .validation import require_kind, shown

KINDS: tuple[type[Estimate], ...] = (
    Mean,
    Epsilon,
    Velocity,
    Score,
    Normal,
    Missing,
    Turnover,
    Posterior,
    LeaveOneOut,
    Conditional,
    Ratio,
)
WIDTH, NAMES = 99, 8  # of the table, and of the names of its rows


@dataclass(frozen=True)
class Plan:
    """What is known of one leaf.

    Arguments:
        part: Where the leaf hangs; empty for a process that is one sum of terms.
        terms: The sum of terms.
        clock: Its clock; empty in its own time.
        engine: The engine that solves it; "none" if it can only be simulated.
        technique: How the engine works.
        branch: What the engine found in the declared numbers.
        reason: Why it is this engine.
        heads: What a network may say there; `Exact` always may.
        limit: The limit law, or why there is none.
        diagnosis: What is known of a linear diffusion; None for any other.
        steps: The steps of a chain; empty in continuous time.
    """

    part: str
    terms: str
    clock: str
    engine: str
    technique: str
    branch: str
    reason: str
    heads: tuple[str, ...]
    limit: str
    diagnosis: Diagnosis | None = None
    steps: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the table, by name."""
        found = f" ({self.branch})" if self.branch else ""
        rows = [
            ("terms", self.terms),
            ("clock", self.clock or "none: its own time, [0, ∞)"),
            *([("steps", self.steps)] if self.steps else []),
            ("engine", f"{self.engine}: {self.technique}{found}"),
            ("why", self.reason),
        ]
        if self.heads:
            rows.append(("heads", ", ".join((*self.heads, "Exact"))))
        more = self.diagnosis.rows() if self.diagnosis is not None else []
        return [*rows, ("limit", self.limit), *more]


@dataclass(frozen=True)
class Explanation:
    """The plans of all leaves of a process; prints as a table."""

    plans: tuple[Plan, ...]

    def __str__(self) -> str:
        margin = max(len(plan.part) for plan in self.plans)
        margin += 2 if margin else 0
        lines = []
        for plan in self.plans:
            part = plan.part
            for name, text in plan.rows():
                lines.append(
                    textwrap.fill(
                        text,
                        WIDTH,
                        initial_indent=f"{part:<{margin}}{name:<{NAMES}}",
                        subsequent_indent=" " * (margin + NAMES),
                        break_long_words=False,
                    )
                )
                part = ""
        return "\n".join(lines)

    __repr__ = __str__


def explain(process: Process) -> Explanation:
    """Which engine solves which part of a process, and why.

    Arguments:
        process: Any process, solved or not.

    Returns:
        An `Explanation`: it prints as a table, and its ``plans`` hold the same by name.

    Raises:
        ValueError: If it is no process.

    Example:
        >>> from discdiff import Death, clock
        >>> print(explain(Death().on(clock.Logistic(15.0))))
        terms   Death()
        clock   Logistic(15)
        engine  PureDeath: closed form, independent units
        why     covers {Death}; more specific than ImmigrationDeath {Death, Immigration},
                Families {Birth, Death, Immigration} and Truncated {Jump}
        heads   Missing, Posterior, Ratio, Exact
        limit   certain: 0
    """
    require_kind(process, Process, "process must be a Process")
    if isinstance(process, Chain):
        late, early = process.grid()[:2].split(1)
        pairs = zip(process.process.leaves(late), process.process.leaves(early), strict=True)
        steps = f"{len(process.times)}, at t = {shown(process.times)}"
        return Explanation(tuple(_plan(leaf, start, steps) for leaf, start in pairs))
    leaves = process.leaves(process.instant(0.5))
    return Explanation(tuple(_plan(leaf) for leaf in leaves))


def _plan(leaf: Leaf, start: Leaf | None = None, steps: str = "") -> Plan:
    """The plan of a leaf; of a chain, with the leaf before the last step."""
    common: dict[str, Any] = {
        "part": leaf.name,
        "terms": repr(leaf.core),
        "clock": repr(leaf.clock) if leaf.clock is not None else "",
        "steps": steps,
    }
    try:
        engine = leaf.core.engine
    except Unsolved as refusal:
        return Plan(
            **common,
            engine="none",
            technique="simulate it, or train by implicit score matching",
            branch="",
            reason=_first_sentence(refusal),
            heads=(),
            limit="not known",
        )
    return Plan(
        **common,
        engine=type(engine).__name__,
        technique=engine.technique,
        branch=engine.branch(),
        reason=_reason(leaf, engine),
        heads=tuple(kind.__name__ for kind in KINDS if _determines(leaf, start, kind)),
        limit=_limit(leaf),
        diagnosis=diagnose(leaf),
    )


def _reason(leaf: Leaf, engine: Engine) -> str:
    """Why this engine: the kinds it covers, and which others were passed over."""
    kinds = kinds_of(moving_terms(leaf.core.terms))
    chosen = engine_for(kinds)
    if not kinds:
        return "all rates are zero"
    if engine.terms != leaf.core.terms and engine.kinds != chosen.kinds:
        found = " + ".join(repr(term) for term in engine.terms)
        return f"handed on by {_named(chosen)}, which recognised {found}"
    if not isinstance(engine, chosen):
        return f"handed on by {_named(chosen)}, whose structure these terms do not have"
    why = f"covers {{{_names(kinds)}}}"
    others = [_named(other) for other in covering(kinds) if other is not chosen]
    if not others:
        return f"{why}; no other engine does"
    rest = " and ".join((", ".join(others[:-1]), others[-1]) if others[1:] else others)
    return f"{why}; more specific than {rest}"


def _named(engine: type[Engine]) -> str:
    return f"{engine.__name__} {{{_names(engine.kinds)}}}"


def _names(kinds: Any) -> str:
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def _determines(leaf: Leaf, start: Leaf | None, kind: type[Estimate]) -> bool:
    """Whether an estimate of this kind determines the score, or the step: it is tried on one."""
    core = leaf.core
    x = core.origin(shape_of(core.terms))
    estimate = _saying_nothing(kind, core, x)
    try:
        if start is not None:
            core._bridge(estimate, x, start.time, leaf.time)
        elif any(isinstance(term, Stepwise) for term in core.terms):
            return False
        else:
            (seen,) = core.leaves(core.instant(0.5))
            sum_over_terms(seen, estimate, estimate, x)
    except Unsolved:
        return False
    return True


def _saying_nothing(kind: type[Estimate], core: Generator, x: Tensor) -> Estimate:
    """An estimate whose numbers are all zero."""
    term: Term = core.terms[0]
    sites = x.shape[: x.dim() - core.law_axes]
    size = getattr(term, "size", 1) if term.categorical else 2
    if issubclass(kind, Logits):
        return kind(torch.zeros(*sites, size))
    if kind is Ratio:
        return Ratio(torch.zeros(*sites, size if term.categorical else max(2, len(core.terms))))
    if kind is Mean:
        return Mean(core.to_data(x))
    if kind is Normal:
        return Normal(Mean(core.to_data(x)), torch.zeros(x.shape))
    if kind is Turnover:
        return Turnover(torch.zeros(*sites, 2))
    return kind(torch.zeros(x.shape))  # type: ignore[call-arg]


def _limit(leaf: Leaf) -> str:
    """The limit law of one entry in words, or why there is none."""
    try:
        law = leaf.core._limit(shape_of(leaf.core.terms))
    except Unsolved as refusal:
        return f"none: {_first_sentence(refusal)}"
    law = getattr(law, "base_dist", law)
    return _in_words(law, ("probs",) if leaf.core.terms[0].categorical else ("mean", "variance"))


def _in_words(law: Distribution, words: tuple[str, ...]) -> str:
    """The type of a law and its moments, or its probabilities where the states are categories."""
    name = type(law).__name__
    try:
        values = [getattr(law, word).detach() for word in words]
    except (AttributeError, NotImplementedError):
        return name
    if words == ("mean", "variance") and bool((values[1] == 0).all()):
        return f"certain: {_numbers(values[0])}"
    if words == ("probs",) and bool((values[0] == 1).any()):
        return f"certain: {int(values[0].reshape(-1).argmax())}"
    each = zip(words, values, strict=True)
    return ", ".join((name, *(f"{word} {_numbers(value)}" for word, value in each)))


def _numbers(values: Tensor) -> str:
    values = values.reshape(-1)
    if bool((values == values[0]).all()):
        return f"{values[0]:.4g}"
    shown = [f"{value:.4g}" for value in values[:4].tolist()] + ["…"] * (len(values) > 4)
    return f"[{', '.join(shown)}]"


def _first_sentence(reason: Exception) -> str:
    return str(reason).split(". ")[0]
