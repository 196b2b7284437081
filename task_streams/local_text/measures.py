"""How alike a generated answer and the right one are, word by word; each is a number in [0, 1], 1 for the same words in the same order.

`f1` is that of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1): words in common, however often each is in both. `rouge-l` is
the F-measure of their longest common subsequence (Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3.1, beta = 1).
`exact` asks for the same words. Departures from SQuAD's script: articles and marks are words like others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

Words = Sequence[Hashable]


def exact(said: Words, right: Words) -> float:
    """1 where both are the same."""
    return float(list(said) == list(right))


def f1(said: Words, right: Words) -> float:
    """Harmonic mean of the shares of `said` and of `right` that the words in common are; of two empty answers 1."""
    common = sum((Counter(said) & Counter(right)).values())
    return _mean(common, len(said), len(right))


def rouge_l(said: Words, right: Words) -> float:
    """The same of the words of their longest common subsequence."""
    ahead = [0] * (len(right) + 1)
    for word in said:
        before = 0  # of the row above, one to the left
        for at, other in enumerate(right, 1):
            before, ahead[at] = ahead[at], before + 1 if word == other else max(ahead[at], ahead[at - 1])
    return _mean(ahead[-1], len(said), len(right))


def _mean(common: int, said: int, right: int) -> float:
    return 2 * common / (said + right) if said + right else 1.0


MEASURES: Mapping[str, Callable[[Words, Words], float]] = {"exact": exact, "f1": f1, "rouge-l": rouge_l}
