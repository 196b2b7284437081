"""A predictor that answers questions by rule: behind <ans> it says what `answer` makes of the text before it, then <eos>."""

from __future__ import annotations

import numpy as np

from clbench.task_streams.language.vocabulary import ANS, EOS, vocabulary


class Answering:
    """`answer` is a subclass's: from the ids before <ans> the name of a token."""

    def answer(self, text: list[int]) -> str:
        raise NotImplementedError

    def initial_state(self, batch: int) -> np.ndarray:
        return np.zeros((batch, 0), dtype=np.int64)

    def logits(self, tokens: np.ndarray, state: np.ndarray):
        text = np.concatenate([state, tokens], axis=1)
        out = np.zeros((*text.shape, vocabulary().size))
        for number, row in enumerate(text.tolist()):
            if ANS in row:
                place = row.index(ANS)
                out[number, place, vocabulary().id(self.answer(row[:place]))] = 1
                out[number, place + 1 :, EOS] = 1
        return out[:, state.shape[1] :], text
