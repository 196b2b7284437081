"""The gradients of soft actor-critic written out, for trunks that are multilayer perceptrons: no graph is built and none is walked.

What small networks cost is mostly that: of an update of 2 x 128 on a CPU about a third. The numbers are those of the losses in
`soft_actor_critic`, up to the order of sums; other trunks are differentiated by torch.
Shape letters: B rows, O observation, A action, N tasks, E critics.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..backbones.mlp import MLP
from .sac_networks import HIGHEST, LOWEST, Losses, SacNetworks, Trunk
from .transitions import Transitions

_LAYERS = torch.ops.aten  # backward passes of single layers
LOG_NORMAL = 0.5 * math.log(2 * math.pi) + 2 * math.log(2)


KNOWN = (nn.Linear, nn.LayerNorm, nn.Tanh, nn.LeakyReLU)


def known(networks: SacNetworks) -> bool:
    """Whether the trunks are such, of layers as they come and heads of such layers."""
    parts = (networks.actor, *networks.critics)
    return all(type(part.trunk) is MLP for part in parts) and all(type(layer) in KNOWN for part in parts for layer in _layers(part))


Found = dict[nn.Module, tuple[Tensor, Tensor]]  # by layer: the gradients of its weight and of its bias


class Pass(NamedTuple):
    """A way through layers: what each was given or gave, as its backward pass needs it."""

    layers: list[nn.Module]
    kept: list[tuple[Tensor, ...]]
    output: Tensor


def forward(layers: list[nn.Module], x: Tensor) -> Pass:
    """Through all `layers`, from x (B, D)."""
    kept: list[tuple[Tensor, ...]] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            kept.append((x,))
            x = torch.addmm(layer.bias, x, layer.weight.t())
        elif isinstance(layer, nn.LayerNorm):
            given = x
            x, mean, scale = torch.native_layer_norm(given, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
            kept.append((given, mean, scale))
        elif isinstance(layer, nn.Tanh):
            x = x.tanh_()
            kept.append((x,))
        else:
            assert isinstance(layer, nn.LeakyReLU)
            x = functional.leaky_relu_(x, layer.negative_slope)
            kept.append((x,))
    return Pass(layers, kept, x)


def backward(way: Pass, gradient: Tensor, *, found: Found | None = None, inputs: bool = True) -> Tensor:
    """The gradient with regard to what the layers were given, from that of what they gave; `found` takes those of the weights.

    Without `inputs` what is returned means nothing.
    """
    weights = found is not None
    for number in reversed(range(len(way.layers))):
        layer, kept = way.layers[number], way.kept[number]
        if isinstance(layer, nn.Linear):
            if found is not None:
                found[layer] = gradient.t() @ kept[0], gradient.sum(0)
            if number or inputs:
                gradient = gradient @ layer.weight
        elif isinstance(layer, nn.LayerNorm):
            given, mean, scale = kept
            gradient, of_weight, of_bias = _LAYERS.native_layer_norm_backward(
                gradient, given, layer.normalized_shape, mean, scale, layer.weight, layer.bias, [True, weights, weights]
            )
            if found is not None:
                found[layer] = of_weight, of_bias
        elif isinstance(layer, nn.Tanh):
            gradient = _LAYERS.tanh_backward(gradient, kept[0])
        else:
            assert isinstance(layer, nn.LeakyReLU)
            gradient = _LAYERS.leaky_relu_backward(gradient, kept[0], layer.negative_slope, True)
    return gradient


class Gradients:
    """Of `networks`, whose trunks are `known`."""

    def __init__(self, networks: SacNetworks) -> None:
        self.networks = networks
        self._actor = _layers(networks.actor)
        self._critics = [_layers(critic) for critic in networks.critics]
        self._targets = [_layers(target) for target in networks.targets]

    @torch.no_grad()
    def leave(self, batch: Transitions, reward_scale: float, target_entropy: float, popart: float = 0.0) -> Losses:
        """Put the gradients of all three losses at the parameters, in the place of those that are there; no loss has a graph."""
        losses, found, self.networks.log_alpha.grad = self.of(batch, reward_scale, target_entropy, popart)
        for layer, (of_weight, of_bias) in found.items():
            layer.weight.grad, layer.bias.grad = of_weight, of_bias
        return losses

    def of(self, batch: Transitions, reward_scale: float, target_entropy: float, popart: float = 0.0) -> tuple[Losses, Found, Tensor]:
        """The losses, and the gradients of all three of them: of layers, and of the temperatures' logarithms (N,)."""
        networks, seen, rows = self.networks, self.networks.seen, len(batch.reward)
        found: Found = {}
        cue, what = batch.observation[:, seen:], batch.observation[:, :seen]
        alpha = networks.log_alphas(batch.observation).exp()
        then = self._act(forward(self._actor, batch.following[:, :seen]), batch.following[:, seen:])
        around = torch.cat([batch.following[:, :seen], then.action], dim=1)
        values = [self._picked(forward(target, around).output, batch.following[:, seen:])[:, 0] for target in self._targets]
        least, goal, spread = torch.minimum(*values), None, None
        if networks.popart:
            mean, spread = networks.normal(batch.following)
            least = least * spread + mean
        wanted = torch.addcmul(reward_scale * batch.reward, batch.discount, least - alpha * then.log_probability)
        if networks.popart:
            networks.follow(wanted, batch.observation, popart)
            mean, spread = networks.normal(batch.observation)
            goal = (wanted - mean) / spread

        around = torch.cat([what, batch.action], dim=1)
        critic_loss = wanted.new_zeros(())
        for critic in self._critics:
            way = forward(critic, around)
            apart = self._picked(way.output, cue)[:, 0] - (wanted if goal is None else goal)
            critic_loss += 0.5 * apart.square().mean()
            backward(way, self._spread((apart / rows)[:, None], cue), found=found, inputs=False)

        way = forward(self._actor, what)
        now = self._act(way, cue)
        around = torch.cat([what, now.action], dim=1)
        ways = [forward(critic, around) for critic in self._critics]
        first, second = (self._picked(one.output, cue)[:, 0] for one in ways)
        lower = first < second
        shares = [lower * (-1.0 / rows), ~lower * (-1.0 / rows)]
        promised = torch.minimum(first, second)
        if spread is not None:
            shares = [share * spread for share in shares]
            promised = promised * spread + mean
        of_action = sum(backward(one, self._spread(share[:, None], cue))[:, seen:] for one, share in zip(ways, shares, strict=True))
        weight = (alpha / rows)[:, None]
        of_raw = torch.addcmul(2 * weight * now.action, of_action, 1 - now.action.square())
        of_log_std = (of_raw * now.spread - weight) * now.inside
        backward(way, self._spread(torch.cat([of_raw, of_log_std], dim=1), cue), found=found, inputs=False)

        surplus = now.log_probability + target_entropy
        of_log_alpha = -(surplus @ cue) / rows if networks.tasks else -surplus.mean(0, keepdim=True)
        actor_loss = (alpha * now.log_probability - promised).mean()
        temperature = -(networks.log_alphas(batch.observation) * surplus).mean()
        return Losses(critic_loss, actor_loss, temperature, -now.log_probability.mean(), wanted.mean(), alpha.mean()), found, of_log_alpha

    def _act(self, way: Pass, cue: Tensor) -> _Acted:
        mean, free = self._picked(way.output, cue).chunk(2, dim=1)
        log_std = free.clamp(LOWEST, HIGHEST)
        noise = torch.randn_like(mean)
        spread = log_std.exp() * noise
        raw = mean + spread
        terms = torch.addcmul(2 * (raw + functional.softplus(-2 * raw)) - log_std, noise, noise, value=-0.5)
        return _Acted(raw.tanh(), terms.sum(1) - LOG_NORMAL * mean.shape[1], spread, log_std == free)

    def _picked(self, output: Tensor, cue: Tensor) -> Tensor:
        """What the head of each row's task says (B, K) of all that heads say (B, N K)."""
        tasks = self.networks.tasks
        return output if tasks <= 1 else torch.bmm(cue[:, None], output.view(len(output), tasks, -1))[:, 0]

    def _spread(self, gradient: Tensor, cue: Tensor) -> Tensor:
        """The gradient (B, K) at the head of each row's task, 0 at the others, (B, N K)."""
        return gradient if self.networks.tasks <= 1 else (cue[:, :, None] * gradient[:, None]).flatten(1)


class _Acted(NamedTuple):
    """An action, and what its gradient needs."""

    action: Tensor  # (B, A)
    log_probability: Tensor  # (B,)
    spread: Tensor  # (B, A) std * noise
    inside: Tensor  # (B, A) whether log std is where it is not clipped


def _layers(part: Trunk) -> list[nn.Module]:
    trunk: Any = part.trunk
    return [*trunk.layers, part.head]
