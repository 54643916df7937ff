"""Routers for split neurons, and down projections that make up for what the router leaves out. In closed form.

Layer by layer, with the inputs that the layer has once the layers below are split (the student's), on some chats:

- An expert's logit is the logarithm of the size of its output, by ridge regression on the layer's input. So a weight
  goes with the size that is expected of the output.
- The down projections are fitted again by ridge regression, towards what the dense model has after the layer. They
  start at the dense ones times one factor. So each layer also makes up for the error of those below.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from language.neuron_split import SplitLayer, balanced_clusters, layer_tensors, split_layer

import torch
import transformers
from torch.nn import functional

ROUTER_RIDGE, DOWN_RIDGE = 1e-2, 1e-2  # of the mean square of an input
LEAST_NORM = 1e-6
CLUSTER_EVERY = 4  # every so manieth token: the clusters need fewer than the fits
CHATS_AT_ONCE = 8


def ridge(inputs: torch.Tensor, outputs: torch.Tensor, strength: float) -> torch.Tensor:
    """Return the matrix [I, O] that takes inputs [N, I] nearest to outputs [N, O], kept small by `strength`."""
    gram = inputs.T @ inputs
    gram.diagonal().add_(strength * gram.diagonal().mean())
    return torch.linalg.solve(gram, inputs.T @ outputs)


def inner(layer: SplitLayer, inputs: torch.Tensor) -> torch.Tensor:
    """Return the neurons' activations [N, E, W] on inputs [N, H]."""
    gate, up = (inputs @ part.flatten(0, 1).T for part in (layer.gate, layer.up))
    return (functional.silu(gate) * up).view(len(inputs), *layer.gate.shape[:2])


def output_norms(layer: SplitLayer, active: torch.Tensor) -> torch.Tensor:
    """Return the sizes [N, E] of the experts' outputs, of activations [N, E, W]."""
    gram = layer.down.transpose(1, 2) @ layer.down
    outer = torch.matmul(active.transpose(0, 1), gram)
    return (outer * active.transpose(0, 1)).sum(-1).T.clamp_min(0).sqrt()


def routing_weights(router: torch.Tensor, inputs: torch.Tensor, count: int) -> torch.Tensor:
    """Return Mixtral's weights [N, E]: a softmax over the `count` largest logits, zero for the others."""
    largest, index = (inputs @ router.T).topk(count, dim=1)
    return torch.zeros(len(inputs), len(router)).scatter(1, index, largest.softmax(1))


def fit_layer(
    dense: SplitLayer, inputs: torch.Tensor, wanted: torch.Tensor, count: int
) -> tuple[SplitLayer, torch.Tensor]:
    """Return a layer of `count` active experts, fitted to put out `wanted` [N, H], and its output on inputs [N, H]."""
    active = inner(dense, inputs)
    sizes = output_norms(dense, active).clamp_min(LEAST_NORM).log()
    router = ridge(inputs, sizes - sizes.mean(), ROUTER_RIDGE).T.contiguous()
    weighted = (active * routing_weights(router, inputs, count)[:, :, None]).flatten(1)
    down = dense.down.transpose(1, 2).flatten(0, 1)  # [neurons, H]
    put_out = weighted @ down
    down = down * ((put_out * wanted).sum() / put_out.square().sum())
    down = down + ridge(weighted, wanted - weighted @ down, DOWN_RIDGE)
    fitted = replace(dense, router=router, down=down.view(*dense.gate.shape).transpose(1, 2).contiguous())
    return fitted, weighted @ down


class Stream:
    """Hidden states of some chats on their way through the layers; padding behind a chat's end changes nothing."""

    def __init__(self, model: transformers.LlamaForCausalLM, chats: list[list[int]]) -> None:
        length = max(map(len, chats))
        ids = torch.tensor([chat + [0] * (length - len(chat)) for chat in chats])
        self.mask = torch.arange(length)[None] < torch.tensor([len(chat) for chat in chats])[:, None]
        self.hidden = model.model.embed_tokens(ids)
        self.positions = model.model.rotary_emb(self.hidden, torch.arange(length)[None])

    def attend(self, layer: Any) -> None:
        """Add a layer's attention."""
        for chats in self.hidden.split(CHATS_AT_ONCE):  # views: in place
            normed = layer.input_layernorm(chats)
            chats += layer.self_attn(normed, position_embeddings=self.positions, attention_mask=None)[0]

    @property
    def tokens(self) -> torch.Tensor:
        """The hidden states [N, H] of the real tokens."""
        return self.hidden[self.mask]

    def add(self, outputs: torch.Tensor) -> None:
        """Add outputs [N, H] to those of the real tokens."""
        self.hidden[self.mask] += outputs


def cluster_features(layer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Return how much each neuron puts out on each of the inputs [N, H], as [neurons, N]."""
    active = functional.silu(layer.gate_proj(inputs)) * layer.up_proj(inputs)
    return (active.abs() * layer.down_proj.weight.norm(dim=0)).T


@torch.no_grad()
def split_model(
    model: transformers.LlamaForCausalLM, chats: list[list[int]], experts: int, count: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each layer's experts and router. With all experts active nothing is fitted.

    chats: token ids, whose activations part the neurons and fit the routers.
    """
    full, split = Stream(model, chats), Stream(model, chats)
    blocks: Any = model.model.layers  # transformers' layers have no types
    for number, layer in enumerate(blocks):
        full.attend(layer)
        inputs = layer.post_attention_layernorm(full.tokens)
        of_neuron = balanced_clusters(cluster_features(layer.mlp, inputs[::CLUSTER_EVERY]), experts)
        mlp = layer.mlp
        parted = split_layer(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, of_neuron)
        full.add(mlp(inputs))
        if count < experts:
            split.attend(layer)
            inputs = layer.post_attention_layernorm(split.tokens)
            parted, outputs = fit_layer(parted, inputs, full.tokens - split.tokens, count)
            split.add(outputs)
        yield layer_tensors(parted, number)
