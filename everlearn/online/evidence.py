"""Evidence that one model is better than another, which may be looked at after every row."""

from math import exp, log

CHANCES = tuple(0.5 + 0.05 * step for step in range(1, 10))
"""How likely the better one wins, for each of which a part of the stake is bet: 0.55, 0.6, ... 0.95."""


def evidence(wins: int, losses: int) -> float:
    """The log of e = mean over p in `CHANCES` of (2p)^wins (2 - 2p)^losses, of rows that one gets right and one wrong.

    If at no row the challenger is likelier than 1/2 to win, whatever came before it, each term is a supermartingale
    that begins at 1, and so is their mean. So e ever reaches 1/alpha with a probability of at most alpha, however
    often and whenever it is looked at (Ville's inequality). A p value of McNemar's test has that probability at one
    look that was fixed before; looked at after each row it will be below alpha sooner or later.

    Ramdas et al., Game-Theoretic Statistics and Safe Anytime-Valid Inference, Statistical Science 2023.
    arXiv:2210.01948

    >>> evidence(0, 0), evidence(20, 5) > log(20) > evidence(5, 5)
    (0.0, True)
    """
    terms = [wins * log(2 * p) + losses * log(2 - 2 * p) for p in CHANCES]
    top = max(terms)
    return top + log(sum(exp(term - top) for term in terms) / len(terms))
