"""Agents as strangers write them: plain classes that import nothing from clbench. Used by many tests."""

import numpy as np


class Ridge:
    """Ridge regression from observations to actions over all steps ever seen."""

    def __init__(self, task, seed, *, ridge: float = 1e-3):
        self.gram = np.eye(task.input_size + 1) * ridge
        self.cross = np.zeros((task.input_size + 1, task.output_size))

    def begin_task(self, task):
        pass

    def end_task(self, task):
        pass

    def learn(self, experience):
        while experience.remaining:
            x, y = experience.steps(min(64, experience.remaining))
            x = np.c_[x, np.ones(len(x))].astype(np.float64)
            self.gram += x.T @ x
            self.cross += x.T @ y

    def policy(self, task):
        return Linear(np.linalg.solve(self.gram, self.cross))

    def state_dict(self):
        return {"gram": self.gram.copy(), "cross": self.cross.copy()}

    def load_state_dict(self, state):
        self.gram, self.cross = state["gram"].copy(), state["cross"].copy()


class Linear:
    def __init__(self, weights):
        self.weights = weights

    def initial_state(self, batch):
        return None

    def act(self, observation, state):
        return np.clip(np.c_[observation, np.ones(len(observation))] @ self.weights, -1, 1), state


class Bigram:
    """Counts which token follows which."""

    def __init__(self, task, seed):
        self.counts = np.full((task.input_size, task.output_size), 1e-3)

    def begin_task(self, task):
        pass

    def end_task(self, task):
        pass

    def learn(self, experience):
        while experience.remaining:
            tokens, mask, _ = experience.windows(4, experience.longest)
            rows, columns = np.nonzero(mask[:, 1:])
            np.add.at(self.counts, (tokens[rows, columns], tokens[rows, columns + 1]), 1.0)

    def policy(self, task):
        return Table(np.log(self.counts))

    def state_dict(self):
        return {"counts": self.counts.copy()}

    def load_state_dict(self, state):
        self.counts = state["counts"].copy()


class Table:
    def __init__(self, scores):
        self.scores = scores

    def initial_state(self, batch):
        return None

    def logits(self, tokens, state):
        return self.scores[tokens], state


class Explorer(Ridge):
    """Learns from interaction: tries random actions and keeps nothing but a count."""

    def __init__(self, task, seed):
        super().__init__(task, seed)
        self.draws = np.random.default_rng(seed)
        self.reward = 0.0

    def learn(self, experience):
        while experience.remaining:
            batch = len(experience.observation)
            if experience.remaining < batch:
                raise RuntimeError("a world of several environments needs a grant that it divides")
            transition = experience.step(self.draws.uniform(-1, 1, size=(batch, self.cross.shape[1])))
            self.reward += float(transition.reward.sum())

    def state_dict(self):
        return {**super().state_dict(), "draws": self.draws.bit_generator.state, "reward": self.reward}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.draws.bit_generator.state = state["draws"]
        self.reward = state["reward"]
