"""The agent that is put together from a learner, a backbone and methods, each named in the configuration.

There is no class for a combination: a part is built by its name through the registry, and its constructor is the schema of its options.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from clbench import registry, seeding
from clbench.errors import UserError, unknown_name
from clbench.experience import Experience
from clbench.interfaces import Policy, Predictor, TaskInfo

from .backbones.backbone import Backbone
from .learners.device import chosen_device
from .learners.item_learner import ItemLearner
from .learners.learner import Learner, trainable
from .methods.method import Chain, Method


class Composed:
    """`demonstrations`, `text`, `interaction`: what to learn with in streams of that kind, {learner: {kind, ...}, backbone: {kind, ...}}.

    `control`: the same for worlds whose actions are continuous, where `interaction` is for those with choices.

    `methods`: {name: {kind, ...}}, applied in this order. None of them is fine-tuning. A section may set options of its own for them:
    {learner, backbone, methods: {name: {...}}}.
    `device`: auto (CUDA where there is one), cpu, cuda or cuda:N.
    """

    def __init__(
        self,
        task: TaskInfo,
        seed: int,
        *,
        demonstrations: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        interaction: dict[str, Any] | None = None,
        control: dict[str, Any] | None = None,
        methods: dict[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        name = task.section
        section = {"demonstrations": demonstrations, "text": text, "interaction": interaction, "control": control}[name]
        if section is None:
            raise UserError(f"this agent has no section '{name}', which the stream needs; add {name}: {{learner, backbone}}")
        for key in section:
            if key not in ("learner", "backbone", "methods"):
                raise UserError(f"{name}: unknown key '{key}'; expected learner, backbone and methods")
        learner_kind, learner_options = _part(section.get("learner"), f"{name}.learner")
        backbone_kind, backbone_options = _part(section.get("backbone"), f"{name}.backbone")

        def build_backbone(input_size: int) -> Backbone:
            return registry.build("backbones", backbone_kind, backbone_options, input_size, where=f"{name}.backbone")

        positional = (task, build_backbone, seeding.integer(seed, "learner"), chosen_device(device))
        self._learner: Learner = registry.build("learners", learner_kind, learner_options, *positional, where=f"{name}.learner")
        chosen = _for_section(methods or {}, section.get("methods") or {}, name)
        self._method: Method = Chain({method: _method(method, options, seed) for method, options in chosen.items()})
        if not isinstance(self._learner, ItemLearner) and (needy := self._method.needs_batches):
            raise UserError(f"methods.{needy} keeps batches of what was learned from, and {learner_kind} learns from none; leave it out")
        self._learner.install(self._method.wrap_networks(self._learner.networks))

    def begin_task(self, task: TaskInfo) -> None:
        """Let the methods prepare; forget the optimiser's momentum where the learner says so."""
        self._learner.begin_task(self._method.before_task(self._learner, task))

    def learn(self, experience: Experience) -> None:
        """Learn until nothing remains."""
        self._learner.learn(experience, self._method)

    def hold_weights(self) -> None:
        """In the task at hand no weight learns any more; batches only move memories on, those of methods too."""
        self._learner.frozen = True

    def end_task(self, task: TaskInfo) -> None:
        """Let the methods consolidate."""
        self._learner.end_task(self._method.after_task(self._learner, task))

    def policy(self, task: TaskInfo) -> Policy | Predictor:
        """A snapshot for `task`, with its own copy of the weights."""
        return self._learner.snapshot(self._method.view(copy.deepcopy(self._learner.networks), task))

    @property
    def gradient_steps(self) -> int:
        """Updates so far."""
        return self._learner.gradient_steps

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in trainable(self._learner.networks))

    def diagnostics(self) -> dict[str, float]:
        """Of the last update: loss, penalty, length of the gradient."""
        return self._learner.diagnostics

    def state_dict(self) -> dict[str, Any]:
        """Everything that further learning depends on; a copy."""
        return {"learner": self._learner.state_dict(), "methods": self._method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, bit for bit."""
        self._learner.load_state_dict(state["learner"])
        self._method.load_state_dict(state["methods"])


def _part(options: Any, where: str) -> tuple[str, dict[str, Any]]:
    """The kind and the other options of one part."""
    if not isinstance(options, Mapping) or "kind" not in options:
        raise UserError(f"{where}: expected a mapping with the key 'kind', got {options!r}")
    rest = dict(options)
    return rest.pop("kind"), rest


def _for_section(methods: Mapping[str, Any], own: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The options of all methods with those that the section sets itself."""
    for name in own:
        if name not in methods:
            raise unknown_name(f"method in {section}.methods", name, methods, "methods of this agent")
    return {name: {**options, **(own.get(name) or {})} if isinstance(options, Mapping) else options for name, options in methods.items()}


def _method(name: str, options: Any, seed: int) -> Method:
    kind, rest = _part(options, f"methods.{name}")
    return registry.build("methods", kind, rest, seeding.integer(seed, "method", name), where=f"methods.{name}")
