"""Ways to bet against p-values that are uniform, one after another."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from scipy.special import gammainc, gammaln, hyp1f1

from trustml.evidence._checks import check_count, check_probability


class Gambler(ABC):
    """One run of a bet; its wealth starts at 1."""

    @abstractmethod
    def bet(self, p: float) -> float:
        """Take in the next p-value and return the logarithm of the wealth after it."""


class Bet(ABC):
    """A strategy against uniform p-values; its wealth is a martingale if they are uniform.

    Subclasses are final. ``name`` is what `betting_martingale` knows them by.
    """

    name: str

    @abstractmethod
    def start(self) -> Gambler:
        """Return a gambler of wealth 1, who has seen nothing."""


class SimpleJumper(Bet):
    """Bets that p-values are too small, too large, or stays out, and changes its mind.

    The stakes are 1 + e (p - 1/2) for e = -1, 0, 1; a share ``jump`` of the wealth is
    redistributed among the three at each step, so that a late change is still caught.

    Parameters
    ----------
    jump : float in (0, 1]
        Small: slow changes; large: quick ones. At 1 the stakes cancel and nothing is bet.

    Raises
    ------
    ValueError
        If ``jump`` is outside (0, 1].

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman (2021), Retrain or not retrain:
    conformal test martingales for change-point detection, arXiv:2102.10439, algorithm 1.

    Examples
    --------
    >>> from trustml.evidence import betting_martingale
    >>> betting_martingale([0.1, 0.1], SimpleJumper(0.01)).round(3)
    array([1.   , 1.106])
    """

    name = "jumper"

    def __init__(self, jump: float = 0.01) -> None:
        self.jump = 1.0 if jump == 1 else check_probability(jump, "jump")

    def start(self) -> Gambler:
        """Return a gambler of wealth 1, a third on each side and a third outside."""
        return _Jumping(self.jump)


class Power(Bet):
    """Bets ``kappa * p ** (kappa - 1)`` on every p-value: that they are too small.

    Parameters
    ----------
    kappa : float in (0, 1)
        Smaller pays more for very small p-values.

    References
    ----------
    Vovk, Nouretdinov and Gammerman (2003), Testing exchangeability on-line.

    Examples
    --------
    >>> from trustml.evidence import betting_martingale
    >>> betting_martingale([0.25, 0.0625], Power(0.5))
    array([1., 2.])
    """

    name = "power"

    def __init__(self, kappa: float = 0.5) -> None:
        self.kappa = check_probability(kappa, "kappa")

    def start(self) -> Gambler:
        """Return a gambler of wealth 1."""
        return _Powering(self.kappa)


class SimpleMixture(Bet):
    """The average over all ``kappa`` in (0, 1) of what `Power` wins: no parameter to choose.

    References
    ----------
    Vovk, Nouretdinov and Gammerman (2003), Testing exchangeability on-line.

    Examples
    --------
    >>> from trustml.evidence import betting_martingale
    >>> betting_martingale([1.0, 1.0], SimpleMixture()).round(3)
    array([0.5  , 0.333])
    """

    name = "mixture"

    def start(self) -> Gambler:
        """Return a gambler of wealth 1."""
        return _Mixing()


class PlugIn(Bet):
    """Bets on the histogram of the p-values so far: finds any lasting shape, not only small ones.

    Each bin's stake is (p-values in it + 1) / (p-values + bins), times the number of bins.

    Parameters
    ----------
    bins : int
        At least 2, of equal width.

    References
    ----------
    Fedorova, Gammerman, Nouretdinov and Vovk (2012), Plug-in martingales for testing
    exchangeability on-line, arXiv:1204.3251.

    Examples
    --------
    >>> from trustml.evidence import betting_martingale
    >>> betting_martingale([0.5, 0.5, 0.5], PlugIn(bins=3)).round(3)
    array([1. , 1.5, 2.7])
    """

    name = "plugin"

    def __init__(self, bins: int = 10) -> None:
        self.bins = check_count(bins, "bins", 2)

    def start(self) -> Gambler:
        """Return a gambler of wealth 1, who expects every bin alike."""
        return _Counting(self.bins)


class Composite(Bet):
    """The average wealth of several bets, each started with the same share.

    It lags behind the best of k bets by the factor k at most.

    Parameters
    ----------
    bets : sequence of Bet or None
        None: `SimpleJumper` at 0.0001, 0.001, 0.01, 0.1 and 1, for changes quick or slow,
        `SimpleMixture` for few but very small p-values, and `PlugIn` for any other shape.

    Raises
    ------
    TypeError
        If these are not bets.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman (2021), Retrain or not retrain:
    conformal test martingales for change-point detection, arXiv:2102.10439, for the jumpers.

    Examples
    --------
    >>> from trustml.evidence import betting_martingale
    >>> bool(betting_martingale([0.01] * 30, Composite())[-1] > 100)
    True
    """

    name = "composite"

    def __init__(self, bets: Sequence[Bet] | None = None) -> None:
        self.bets = (
            [*map(SimpleJumper, (1e-4, 1e-3, 1e-2, 1e-1, 1)), SimpleMixture(), PlugIn()]
            if bets is None
            else list(bets)
        )
        if not self.bets or not all(isinstance(bet, Bet) for bet in self.bets):
            raise TypeError(f"bets must be a sequence of at least one Bet, got {bets!r}")

    def start(self) -> Gambler:
        """Return a gambler of wealth 1, who backs all the others alike."""
        return _Backing([bet.start() for bet in self.bets])


def as_bet(bet: Any) -> Bet:
    """Return a bet from its name, or a `Bet` as it is.

    Returns
    -------
    Bet

    Raises
    ------
    ValueError
        If no bet has this name; the message lists those that exist.
    """
    if isinstance(bet, Bet):
        return bet
    if not isinstance(bet, str) or bet not in BETS:
        raise ValueError(f"bet must be one of {sorted(BETS)} or a Bet, got {bet!r}")
    return BETS[bet]()


BETS: dict[str, type[Bet]] = {
    kind.name: kind for kind in (SimpleJumper, Composite, Power, SimpleMixture, PlugIn)
}


def log_mixture(n: int, s: float) -> float:
    """Return log of the integral over k in (0, 1) of k^n exp((1 - k) s), for s >= 0."""
    if s == math.inf:
        return math.inf
    # Where the incomplete gamma function would vanish, Kummer's series is short.
    if s < n + 2:
        return float(math.log(hyp1f1(1, n + 2, s) / (n + 1)))
    return float(s - (n + 1) * math.log(s) + gammaln(n + 1) + math.log(gammainc(n + 1, s)))


class _Jumping(Gambler):
    def __init__(self, jump: float) -> None:
        self.jump, self.shares, self.total = jump, (1 / 3, 1 / 3, 1 / 3), 0.0

    def bet(self, p: float) -> float:
        stay, gift = 1 - self.jump, self.jump / 3
        small, out, large = (stay * share + gift for share in self.shares)
        small, large = small * (1.5 - p), large * (0.5 + p)
        gain = small + out + large
        self.shares = (small / gain, out / gain, large / gain)
        self.total += math.log(gain)
        return self.total


class _Powering(Gambler):
    def __init__(self, kappa: float) -> None:
        self.kappa, self.total = kappa, 0.0

    def bet(self, p: float) -> float:
        self.total += math.log(self.kappa) + (1 - self.kappa) * _surprise(p)
        return self.total


class _Mixing(Gambler):
    def __init__(self) -> None:
        self.n, self.surprise = 0, 0.0

    def bet(self, p: float) -> float:
        self.n += 1
        self.surprise += _surprise(p)
        return log_mixture(self.n, self.surprise)


class _Counting(Gambler):
    def __init__(self, bins: int) -> None:
        self.counts, self.n, self.total = [1] * bins, bins, 0.0

    def bet(self, p: float) -> float:
        bins = len(self.counts)
        mine = min(int(p * bins), bins - 1)
        self.total += math.log(bins * self.counts[mine] / self.n)
        self.counts[mine] += 1
        self.n += 1
        return self.total


class _Backing(Gambler):
    def __init__(self, gamblers: list[Gambler]) -> None:
        self.gamblers = gamblers

    def bet(self, p: float) -> float:
        logs = [gambler.bet(p) for gambler in self.gamblers]
        top = max(logs)
        if math.isinf(top):
            return top
        return top + math.log(sum(math.exp(log - top) for log in logs) / len(logs))


def _surprise(p: float) -> float:
    return -math.log(p) if p > 0 else math.inf
