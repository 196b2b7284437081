"""Soft actor-critic with a memory: which windows are read, that reading them is living them, and that it learns what needs a memory."""

from typing import Any

import numpy as np
import pytest
import torch

from clbench.agents.composed import Composed
from clbench.agents.learners.episodes_kept import EpisodeBuffer, Lived
from clbench.agents.methods.method import Chain
from clbench.errors import UserError
from clbench.experience import Interaction
from clbench.interfaces import TaskInfo

from .conftest import HORIZON, SIDE, Aim

CPU, OBS, A = torch.device("cpu"), 3, 2
SMALL = {"lanes": 4, "window": 2, "capacity": 400, "start_steps": 20, "update_after": 20, "update_every": 8, "updates": 1}
BACKBONES: dict[str, dict[str, Any]] = {
    "lstm": {"kind": "lstm", "width": 16},
    "rmt": {"kind": "rmt", "width": 16, "layers": 1, "heads": 2, "segment_length": 2, "memory_tokens": 2},
    "transformer-xl": {"kind": "transformer-xl", "width": 16, "layers": 1, "heads": 2, "segment_length": 2, "memory_length": 4},
    "gated-deltanet": {"kind": "gated-deltanet", "width": 16, "layers": 1, "heads": 2},
    "mlp": {"kind": "mlp", "width": 16, "depth": 1},
}


def task(index: int | None = None, tasks: int = 1) -> TaskInfo:
    return TaskInfo(index, tasks, "interaction", OBS + (tasks if index is not None else 0), A)


def agent(kind: str = "lstm", info: TaskInfo | None = None, seed: int = 0, methods: Any = None, **learner: Any) -> Composed:
    section = {"learner": {"kind": "recurrent-soft-actor-critic", **SMALL, **learner}, "backbone": BACKBONES[kind]}
    return Composed(info or task(), seed, control=section, methods=methods, device="cpu")


def lived(built: Composed, units: int, world: Any = None) -> Interaction:
    experience = Interaction(world or Aim(masked=True))
    experience.meter.grant(units)
    built.learn(experience)
    return experience


# ---- what is kept


def filled(rows: int, lengths: tuple[int, ...] = (5, 3), *, room: int = 100) -> EpisodeBuffer:
    """Row t of environment e: observation 10 t + e; episodes of environment e have lengths[e] steps."""
    buffer = EpisodeBuffer(room * len(lengths), CPU)
    for t in range(rows):
        names = 10.0 * t + torch.arange(len(lengths))
        clock = torch.tensor([t % length for length in lengths])
        over = torch.tensor([float(t % length == length - 1) for length in lengths])
        first = (clock == 0)[:, None]
        previous = torch.where(first, 0.0, (names - 10)[:, None])
        buffer.keep(Lived(names[:, None], previous, names[:, None], names, torch.zeros_like(over), over, names[:, None] + 10, clock))
    return buffer


def test_a_window_begins_at_a_multiple_of_its_length_and_brings_what_stood_before() -> None:
    """Environment 0, episode of rows 5..9: the window of rows 7, 8 has the prefix 5, 6; that of row 9 has 5..8 and lacks its second."""
    buffer = filled(12)
    lane, age, clock = torch.tensor([0, 0, 1]), torch.tensor([4, 2, 2]), torch.tensor([2, 4, 0])
    found = buffer.at(lane, age, clock, 2, -1)
    assert found.observation[:, :, 0].tolist()[:2] == [[70, 80], [90, 100]] and found.observation[2, 0, 0] == 91
    assert found.missing.tolist() == [[False, False], [False, True], [False, False]]
    assert found.prefix[:, :, 0][0, 2:].tolist() == [50, 60] and found.prefix[1, :, 0].tolist() == [50, 60, 70, 80]
    assert found.prefix_missing.tolist() == [[True, True, False, False], [False] * 4, [True] * 4]
    assert found.prefix[1, :, 1].tolist() == [0, 50, 60, 70]  # the actions before
    short = buffer.at(lane, age, clock, 2, 1)
    assert short.prefix[:, :, 0].tolist()[:2] == [[60], [80]] and short.prefix_missing.tolist() == [[False], [False], [True]]


def test_what_was_overwritten_or_has_not_come_is_missing() -> None:
    buffer = filled(12, (100, 100), room=6)  # rows 6..11 are there, in the middle of an episode
    found = buffer.at(torch.tensor([0, 0]), torch.tensor([3, 1]), torch.tensor([8, 10]), 4, -1)
    assert found.missing.tolist() == [[False] * 4, [False, False, True, True]]
    assert found.prefix_missing[0].tolist() == [True] * 8 + [False] * 2 and found.prefix[0, -2:, 0].tolist() == [60, 70]


def test_windows_are_drawn_from_all_that_is_kept_and_a_saved_buffer_goes_on() -> None:
    torch.manual_seed(0)
    buffer, other = filled(13, room=8), EpisodeBuffer(16, CPU)
    other.load_state_dict(buffer.state_dict())
    for kept in (buffer, other):
        seen = set()
        for _ in range(100):
            found = kept.draw(8, 2, -1)
            assert not found.missing.all(1).any()
            seen |= set(found.observation[..., 0][~found.missing].tolist())
        assert seen == {10.0 * t + e for t in range(5, 13) for e in range(2)}
    assert len(buffer) == 16


# ---- reading is living


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_window_is_read_as_it_was_lived(kind: str) -> None:
    """Hidden states step by step from the beginning of an episode, and by a window behind its prefix."""
    built = agent(kind, start_steps=10**6, update_after=10**6, capacity=10_000)
    lived(built, SIDE * 13)
    learner = built._learner
    learner.networks.eval()
    buffer, actor = learner.buffer, learner.networks.actor
    windows = buffer.at(torch.arange(SIDE), torch.full((SIDE,), 5), torch.full((SIDE,), 2), 2, -1)  # rows 7, 8 of 5..9
    assert windows.prefix.shape[1] == 2 and not windows.prefix_missing.any() and not windows.missing.any()
    with torch.no_grad():
        state = learner._begun(actor, windows)
        read = actor.read(windows.observation, windows.previous, state, windows.missing).hidden
        rows = [buffer.at(torch.arange(SIDE), torch.full((SIDE,), 12 - t), torch.full((SIDE,), t - 5), 1, 0) for t in range(5, 9)]
        step, hidden = actor.backbone.initial_state(SIDE), []
        for row in rows:
            out = actor.read(row.observation, row.previous, step)
            step = out.state
            hidden.append(out.hidden)
    torch.testing.assert_close(read, torch.cat(hidden[2:], dim=1), atol=1e-5, rtol=1e-4)


def test_what_is_missing_changes_nothing() -> None:
    """The loss of windows whose second half is missing is that of their first half, whatever stands there."""
    built = agent("lstm", window=4, start_steps=10**6, update_after=10**6)
    lived(built, SIDE * 5)
    learner, found = built._learner, []
    for garbage in (0.0, 50.0):
        windows = learner.buffer.at(torch.arange(SIDE), torch.full((SIDE,), 0), torch.full((SIDE,), 4), 4, -1)  # the last step of each
        assert windows.missing.tolist() == [[False, True, True, True]] * SIDE
        changed = {name: getattr(windows, name).clone() for name in ("observation", "action", "reward", "following")}
        for column in changed.values():
            column[:, 1:] = garbage
        torch.manual_seed(0)
        found.append([value.item() for value in learner._losses(windows._replace(**changed))])
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6) and np.isfinite(found[0]).all()


def test_returns_stop_where_an_episode_a_window_or_what_is_there_ends() -> None:
    """Rewards 0, 10, 20, 30, discount 1/2, over 3 steps. The first window's episode ends with its second step, the other lacks its last."""
    built = agent(n_step=3, discount=0.5, window=4)
    windows = filled(4, (100, 100)).at(torch.tensor([0, 0]), torch.tensor([3, 3]), torch.tensor([0, 0]), 4, -1)
    over, missing = torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    over[0, 1], missing[1, 3] = 1.0, True
    last, total, discount = built._learner._returns(windows._replace(over=over, missing=missing))
    assert last.tolist() == [[1, 1, 3, 3], [2, 2, 2, 3]]
    assert total.tolist() == [[5, 10, 35, 30], [10, 20, 20, 30]]
    assert discount[0].tolist() == [0.25, 0.5, 0.25, 0.5] and discount[1, :3].tolist() == [0.125, 0.25, 0.5]
    ended = built._learner._returns(windows._replace(over=over, missing=missing, terminated=over))[2]
    assert ended[0].tolist() == [0.0, 0.0, 0.25, 0.5]


def test_an_update_moves_actor_critics_and_temperature_and_targets_follow() -> None:
    built = agent("rmt", start_steps=10**6, update_after=10**6, polyak=0.9)
    lived(built, SIDE * 10)
    nets = built._learner.networks
    before = {name: weight.clone() for name, weight in nets.named_parameters()}
    torch.manual_seed(0)
    built._learner.improve(built._learner.buffer.draw(8, 2, -1), Chain({}))
    moved = {name for name, weight in nets.named_parameters() if not torch.equal(weight, before[name])}
    for part in ("actor.head", "actor.backbone", "critic.heads.0", "critic.heads.1", "critic.backbone", "log_alpha"):
        assert any(name.startswith(part) for name in moved), part
    for name, weight in nets.critic.named_parameters():
        torch.testing.assert_close(dict(nets.target.named_parameters())[name], 0.9 * before[f"target.{name}"] + 0.1 * weight)


# ---- the whole


def errors(built: Composed, count: int = 64) -> float:
    """Mean distance of the actions behind the first step from the point that was shown at the first."""
    policy, world = built.policy(task()), Aim(seed=9, masked=True)
    found = []
    for _ in range(count // SIDE):
        state = policy.initial_state(SIDE)
        for step in range(HORIZON):
            action, state = policy.act(world.observation, state)
            if step:
                found.append(np.abs(action - world.point).mean())
            world.step(action)
    return float(np.mean(found))


@pytest.mark.parametrize("kind", ["lstm", pytest.param("gated-deltanet", marks=pytest.mark.slow)])
def test_with_a_memory_it_aims_at_what_it_saw_once(kind: str) -> None:
    """0.35 by standing still, which is the best without a memory."""
    options = {"lanes": 32, "window": HORIZON, "capacity": 5000, "learning_rate": 3e-3, "updates": 2, "discount": 0.5, "n_step": 1}
    built = agent(kind, start_steps=200, update_after=200, reward_scale=1.0, **options)
    built.begin_task(task())
    lived(built, 3600)
    assert errors(built) < 0.2
    assert {"critic", "actor", "entropy", "alpha", "value", "memory_bytes_per_stream"} <= built.diagnostics().keys()


def test_stopped_within_an_episode_it_goes_on_bit_for_bit(through_a_file: Any) -> None:
    built = agent("rmt")
    built.begin_task(task())
    experience = lived(built, SIDE * 12)  # two steps into the third episode
    kept, place = through_a_file(built.state_dict()), through_a_file(experience.state_dict())
    again, world = agent("rmt", seed=9), Interaction(Aim(seed=77, masked=True))
    again.load_state_dict(kept)
    world.load_state_dict(place)
    for one, where in ((built, experience), (again, world)):
        where.meter.grant(SIDE * 12)
        one.learn(where)
    weights = [list(one._learner.networks.state_dict().values()) for one in (built, again)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True)) and built.gradient_steps == again.gradient_steps > 5


def test_heads_are_picked_by_the_task_and_a_new_task_begins_episodes() -> None:
    built = agent("lstm", task(0, 3))
    nets = built._learner.networks
    assert nets.actor.backbone.input_size == OBS + A
    hidden, seen = torch.randn(6, 16), torch.randn(6, OBS)
    shown = [torch.cat([seen, torch.eye(3)[[n] * 6]], 1) for n in range(3)]
    acts = [nets.actor.act(hidden, x, drawn=False).action for x in shown]
    assert not torch.allclose(acts[0], acts[1])
    mixed = nets.actor.act(hidden, torch.cat([shown[0][:3], shown[2][3:]]), drawn=False).action
    torch.testing.assert_close(mixed, torch.cat([acts[0][:3], acts[2][3:]]))
    world = Aim()
    world.cue = np.tile(np.eye(3)[0], (SIDE, 1))
    lived(built, SIDE * 7, world)
    assert built._learner._clock.tolist() == [2] * SIDE and built._learner.buffer.filled == 7
    built.begin_task(task(1, 3))
    assert built._learner._memory is None and built._learner.buffer.filled == 0


def test_where_nobody_tells_that_a_task_is_over_episodes_begin_with_the_next_world() -> None:
    built = agent("lstm")
    experience = lived(built, SIDE * 7)
    assert built._learner._clock.tolist() == [2] * SIDE
    experience.meter.grant(SIDE)
    built.learn(experience)
    assert built._learner._clock.tolist() == [3] * SIDE
    lived(built, SIDE, Aim(seed=5, masked=True))
    assert built._learner._clock.tolist() == [1] * SIDE
    rows = built._learner.buffer.at(torch.arange(SIDE), torch.zeros(SIDE, dtype=torch.long), torch.zeros(SIDE, dtype=torch.long), 1, -1)
    assert not rows.missing.any() and not rows.previous.any()


def test_answers_depend_on_their_row_alone() -> None:
    built = agent("rmt")
    policy, seen = built.policy(task()), np.random.default_rng(0).normal(size=(3, 5, OBS))
    state, parts = policy.initial_state(5), [policy.initial_state(1) for _ in range(5)]
    for x in seen:
        whole, state = policy.act(x, state)
        for n in range(5):
            one, parts[n] = policy.act(x[n : n + 1], parts[n])
            assert np.allclose(one[0], whole[n], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window, capacity, update_every and n_step must be at least 1"),
        ({"burn_in": -2}, "burn_in at least -1"),
        ({"discount": 1.5}, r"discount and polyak must lie in \[0, 1\]"),
        ({"reward_scale": 0.0}, "must be > 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        agent(**options)


def test_methods_that_keep_batches_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"methods\.mine keeps batches of what was learned from, and recurrent-soft-actor-critic learns from"
    ):
        agent(methods={"mine": {"kind": "ewc"}})
