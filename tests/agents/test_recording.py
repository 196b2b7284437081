"""Updates that are recorded and played: on the CPU by a tape that does what a CUDA graph does, with operations at fixed addresses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from clbench.agents.composed import Composed
from clbench.agents.learners import transitions
from clbench.agents.learners.recording import WARM_UP, Recording

HOST = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}  # they ask the device


class Kernels(TorchDispatchMode):
    """A `Tape` on the CPU: it keeps which operation was made on which memory, and makes it again there.

    Recording leaves everything as it was, the random numbers too, as recording on a CUDA device does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # by address: memory that was there, and a copy
        self.own: set[int] = set()
        self.plays = 0

    def record(self, function: Callable[[], Any]) -> Any:
        state = torch.get_rng_state()
        with self:
            outputs = function()
        with torch.no_grad():
            for memory, kept in self.before.values():
                memory.copy_(kept)
        torch.set_rng_state(state)
        return outputs

    def play(self) -> None:
        self.plays += 1
        with torch.no_grad():
            for operation, args, kwargs, outputs in self.made:
                again = [leaf for leaf in tree_flatten(operation(*args, **kwargs))[0] if isinstance(leaf, Tensor)]
                for memory, fresh in zip(outputs, again, strict=True):
                    if memory.data_ptr() != fresh.data_ptr():
                        memory.copy_(fresh)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operation.overloadpacket.__name__ not in HOST, f"{operation} cannot be recorded"
        for leaf in tree_flatten((args, kwargs))[0]:
            if isinstance(leaf, Tensor) and (address := leaf.untyped_storage().data_ptr()) not in self.own | self.before.keys():
                whole = torch.empty(0, dtype=leaf.dtype).set_(leaf.untyped_storage())
                self.before[address] = whole, whole.clone()
        given = tree_map(alias, (args, kwargs or {}))
        found = operation(*args, **(kwargs or {}))
        outputs = [alias(leaf) for leaf in tree_flatten(found)[0] if isinstance(leaf, Tensor)]
        self.own |= {leaf.untyped_storage().data_ptr() for leaf in outputs} - self.before.keys()
        self.made.append((operation, *given, outputs))
        return found


def alias(leaf: Any) -> Any:
    """The same memory, in a shape that nobody else changes."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def recorded(built: Composed) -> list[Kernels]:
    """The tapes of `built` from here on."""
    tapes: list[Kernels] = []

    def new() -> Kernels:
        tapes.append(Kernels())
        return tapes[-1]

    built._learner._tape = new
    return tapes


def equal(one: Any, other: Any) -> bool:
    left, right = tree_flatten(one)[0], tree_flatten(other)[0]
    return len(left) == len(right) and all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_recording_is_played_on_new_inputs_and_writes_where_it_wrote() -> None:
    total, tapes = torch.zeros(3), []

    def new() -> Kernels:
        tapes.append(Kernels())
        return tapes[-1]

    def add(x: Tensor) -> Tensor:
        total.add_(x * torch.rand(3))
        return total * 2

    torch.manual_seed(0)
    record = Recording(add, new)
    said = [record(torch.full((3,), float(n))).clone() for n in range(8)]
    torch.manual_seed(0)
    expected = torch.zeros(3)
    for n in range(8):
        expected = expected + n * torch.rand(3)
        assert torch.equal(said[n], expected * 2)
    assert len(tapes) == 1 and tapes[0].plays == 8 - WARM_UP and torch.equal(total, expected)


@pytest.mark.parametrize(
    ("methods", "options"),
    [
        ({}, {}),
        ({}, {"gradient_clip": 0.01}),
        ({}, {"popart": 0.1, "warmup": 5}),
        ({}, {"anneal": 12, "reset_optimizer": False}),
        ({}, {"reset_buffer": False, "n_step": 1}),
        ({"l2": {"kind": "l2", "strength": 1e-3}}, {}),
        ({"ewc": {"kind": "ewc", "strength": 1.0, "samples": 5}}, {"reset_optimizer": False}),
        ({"mas": {"kind": "mas", "strength": 1.0, "samples": 5}}, {"popart": 0.1}),
        ({"packnet": {"kind": "packnet", "samples": 50}}, {}),
        ({"vcl": {"kind": "variational"}}, {}),
        ({"freeze": {"kind": "freeze", "after": 1, "learns": ["actor.head.*", "log_alpha"]}}, {}),
    ],
)
def test_played_updates_are_those_that_are_made_one_by_one(methods: Any, options: Any, world_of: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(transitions, "ROOM", 64)  # more is taken while it learns
    world = world_of("soft actor-critic")
    one, other = (world.agent(methods, **options) for _ in range(2))
    tapes = recorded(other)
    for built in (one, other):
        world.live(built, [120, 160, 80])
    assert sum(tape.plays for tape in tapes) > 30 and len(tapes) >= 4
    assert equal(one.state_dict(), other.state_dict()) and one.gradient_steps == other.gradient_steps
    assert one.diagnostics() == other.diagnostics()


@pytest.mark.parametrize(
    ("methods", "options"),
    [
        ({"cloning": {"kind": "cloning"}}, {}),
        ({"replay": {"kind": "replay"}}, {}),
        ({"a-gem": {"kind": "a-gem"}}, {}),
        ({}, {"warmup": 1000}),
        ({}, {"anneal": 1000}),
    ],
)
def test_what_does_not_stay_as_it_is_is_not_recorded(methods: Any, options: Any, world_of: Any) -> None:
    world = world_of("soft actor-critic")
    built = world.agent(methods, **options)
    tapes = recorded(built)
    world.live(built, [120, 80])
    assert tapes == [] and built.gradient_steps > 30


def test_what_was_recorded_goes_on_where_it_was_saved(world_of: Any, through_a_file: Any) -> None:
    world = world_of("soft actor-critic")
    built, again = (world.agent(seed=seed) for seed in (0, 1))
    tapes = [recorded(one) for one in (built, again)]
    world.live(again, [80])
    place = world.experience(0, 80)
    built.begin_task(world.task(0))
    built.learn(place)
    again.load_state_dict(through_a_file(built.state_dict()))
    elsewhere = world.experience(0)
    elsewhere.load_state_dict(through_a_file(place.state_dict()))
    for one, where in ((built, place), (again, elsewhere)):
        where.meter.grant(80)
        one.learn(where)
    assert equal(built.state_dict(), again.state_dict())
    assert len(tapes[0]) == 1 and len(tapes[1]) == 2  # what was loaded stands elsewhere


def test_the_host_is_not_asked_within_a_recording() -> None:
    record = Recording(lambda x: x * float(x.sum()), Kernels)
    for _ in range(WARM_UP):
        record(torch.ones(2))
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        record(torch.ones(2))
