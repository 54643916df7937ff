"""The decoder of a checkpoint, loaded with transformers: whole, or one layer at a time.

`LayerStream` builds the model without weights and gives each layer its own only while it runs. Masks, position
embeddings and whatever else a layer takes come from the model's own forward pass, in which every other layer hands its
input on. Renamed, merged and cast tensors go through the loader that `from_pretrained` uses
(transformers.core_model_loading, pinned). In bf16 a streamed layer computes the bits of one loaded whole; in fp32 the last
bits can differ, because weights loaded whole lie at the file's own alignment.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (WeightConverter, WeightRenaming, convert_and_load_state_dict_in_model,
                                             rename_source_key)
from transformers.modeling_utils import LoadStateDictConfig

from byte_ranges import aligned
from checkpoint import TensorRange
from expert_observer import expert_modules
from safe_files import InputError

TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64,
                "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
WEIGHT_DTYPES = ("F32", "BF16", "F16", "F64")
EMBEDDING, REST = "embedding", "rest"
ALIGN_BYTES = 64
READ_BYTES = 64 << 20


def stored_dtype(config: dict, tensors: dict[str, TensorRange]) -> torch.dtype:
    """Return the dtype a checkpoint is meant to run in: its config's, else that of its largest tensor."""
    text = config.get("text_config") or {}
    name = next((c[key] for c in (config, text) for key in ("dtype", "torch_dtype") if c.get(key)), None)
    return getattr(torch, name) if name else TORCH_DTYPES[max(tensors.values(), key=lambda tensor: tensor.size).dtype]


def check_weight_dtypes(tensors: dict[str, TensorRange]) -> None:
    """Raise InputError when a weight (two axes or more) is stored in anything but a plain floating dtype."""
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_DTYPES and (len(tensor.shape) > 1 or tensor.dtype not in TORCH_DTYPES):
            raise InputError(tensor.file, f"{name} in {', '.join(WEIGHT_DTYPES)}", tensor.dtype,
                             "quantised checkpoints are not analysed")


def read_tensors(tensors: dict[str, TensorRange], buffer: torch.Tensor) -> dict[str, torch.Tensor]:
    """Read tensors from their shards into one buffer of bytes, at aligned places; return views of it."""
    views, place, bytes_of = {}, 0, memoryview(buffer.numpy())
    for name, tensor in tensors.items():
        with open(tensor.file, "rb", buffering=0) as file:
            file.seek(tensor.offset)
            end, at = place + tensor.size, place
            while at < end:
                count = file.readinto(bytes_of[at : min(at + READ_BYTES, end)])
                if not count:
                    raise InputError(tensor.file, f"{tensor.size} bytes of {name}", f"{at - place}", "did it change?")
                at += count
        views[name] = buffer[place:end].view(TORCH_DTYPES[tensor.dtype]).reshape(tensor.shape)
        place = aligned(end, ALIGN_BYTES)
    return views


def decoder_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the module that runs the layers which hold the experts, and its name in the model."""
    first = next(iter(expert_modules(model).values()))
    path = next(name for name, module in model.named_modules() if module is first)
    name = f".{path}".partition(".layers.")[0].lstrip(".")
    return name, model.get_submodule(name)


def build_empty(directory: Path, dtype: torch.dtype, attention: str) -> nn.Module:
    """Build a checkpoint's model on the meta device: shapes, no weights."""
    try:
        config = transformers.AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).eval()
    except (ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(directory / "config.json", "a causal language model that transformers builds",
                         str(error).splitlines()[0][:200]) from error


def load_resident(directory: Path, dtype: torch.dtype, attention: str, device_map: object) -> nn.Module:
    """Load a checkpoint whole; raise InputError when a weight is missing from it."""
    placement = {"device_map": device_map} if device_map else {}
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation=attention, output_loading_info=True, **placement)
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            raise InputError(directory, f"every weight of {type(model).__name__}", f"{kind}: {sorted(report[kind])[0]}")
    return model.eval()


def put_weights(model: nn.Module, weights: dict[str, torch.Tensor], device: torch.device):
    """Put checkpoint tensors into a model as from_pretrained does (renamed, merged, cast); return what did not fit."""
    return convert_and_load_state_dict_in_model(model, weights, LoadStateDictConfig(
        device_map={"": device}, dtype=model.dtype, dtype_plan=model._get_dtype_plan(model.dtype),
        weight_mapping=get_model_conversion_mapping(model)))[0]


def check_complete(model: nn.Module, directory: Path, tensors: dict[str, TensorRange]) -> None:
    """Raise InputError when the headers of a checkpoint do not give every weight of the decoder in its shape.

    `model` is one from `build_empty`; no weight is read.
    """
    blank = {name: torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype], device="meta")
             for name, tensor in tensors.items()}
    report = put_weights(model, blank, torch.device("meta"))
    inside = f"{decoder_of(model)[0]}."
    for kind, keys in (("missing", report.missing_keys), ("of another shape", report.mismatched_keys)):
        lacking = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if lacking := [key for key in lacking if key.startswith(inside)]:
            raise InputError(directory, f"every weight of {type(model).__name__}", f"{lacking[0]} {kind}")


class LayerStream:
    """A model of which only one decoder layer at a time has weights."""

    def __init__(self, directory: Path, tensors: dict[str, TensorRange], model: nn.Module, device: torch.device,
                 prefetch: bool | None = None) -> None:
        """Take a model from `build_empty`; the parts other than layers and embedding get their weights at once.

        `prefetch` reads the next layer while one computes (by default on a GPU only: it holds two layers in memory).
        Raises InputError when layers depend on more than the hidden states of the layer before.
        """
        text = model.config.get_text_config()
        for key in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
            if getattr(text, key, 0):
                raise InputError(directory / "config.json", f"{key} 0 (layers that need only the layer before)",
                                 str(getattr(text, key)), "analyse it without --stream-layers")
        self.directory, self.tensors, self.model, self.device = directory, tensors, model, device
        self.pinned = device.type == "cuda"
        self.prefetch = self.pinned if prefetch is None else prefetch
        self.name, self.decoder = decoder_of(model)
        self.layers: list[nn.Module] = list(self.decoder.layers)
        self.names = self._checkpoint_names()
        self.reader = ThreadPoolExecutor(1)
        self.ahead: dict[object, Future] = {}
        self.buffers: list[torch.Tensor | None] = [None, None]
        self._load(REST)
        self._initialize_buffers()
        self.running: int | None = None
        for number, layer in enumerate(self.layers):
            layer.forward = partial(self._visit, number, layer.forward)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states that enter layer 0, [batch, tokens, hidden], on the host."""
        self.running, self.state = None, None
        self.decoder(input_ids=ids.to(self.device), attention_mask=self._on_device(mask), use_cache=False)
        return self._to_host(self.state)

    def run_layer(self, number: int, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states that leave layer `number`, on the host; the layer must be loaded."""
        self.running, self.state = number, hidden.to(self.device, non_blocking=True)
        size = self.model.config.get_text_config().hidden_size
        blank = torch.zeros(*hidden.shape[:2], size, dtype=self.model.dtype, device=self.device)
        self.decoder(inputs_embeds=blank, attention_mask=self._on_device(mask), use_cache=False)
        state, self.state = self.state, None
        return self._to_host(state)

    def load_embedding(self) -> None:
        """Give the token embedding its weights."""
        self._load(EMBEDDING)

    def free_embedding(self) -> None:
        """Take them away again."""
        self._free(self.decoder.get_input_embeddings())

    def load_layer(self, number: int, following: int | None) -> None:
        """Give one layer its weights, and have those of the `following` layer read meanwhile."""
        self._load(number)
        if following is None:
            return
        if self.prefetch:
            self.ahead[following] = self.reader.submit(self._read, following)
        else:  # the kernel reads ahead into its own cache, which is not this process's memory
            for name in self.names[following]:
                with open(self.tensors[name].file, "rb") as file:
                    os.posix_fadvise(file.fileno(), self.tensors[name].offset, self.tensors[name].size,
                                     os.POSIX_FADV_WILLNEED)

    def free_layer(self, number: int) -> None:
        """Take a layer's weights away."""
        self._free(self.layers[number])

    def _visit(self, number: int, forward, *args, **kwargs) -> torch.Tensor:
        """Stand in for a layer's forward: run it if it is its turn, else hand the input on."""
        incoming = args[0] if args else kwargs.pop("hidden_states")
        if self.running is None and number == 0:
            self.state = incoming
        if self.running == number:
            self.state = forward(self.state, *args[1:], **kwargs)
            if not isinstance(self.state, torch.Tensor):
                raise InputError(type(self.layers[number]).__name__, "a layer that returns hidden states",
                                 f"a {type(self.state).__name__}", "analyse it without --stream-layers")
        return incoming

    def _on_device(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        return None if mask is None else mask.to(self.device)

    def _to_host(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.pinned:
            return hidden
        return torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden)

    def _checkpoint_names(self) -> dict[object, list[str]]:
        """Return the checkpoint's tensor names by part: layer numbers, EMBEDDING and REST of the decoder."""
        mapping = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        prefix, state = self.model.base_model_prefix, self.model.state_dict()
        embedding = self.decoder.get_input_embeddings()
        embedding_name = next(name for name, module in self.model.named_modules() if module is embedding)
        names: dict[object, list[str]] = {part: [] for part in (EMBEDDING, REST, *range(len(self.layers)))}
        for name in self.tensors:
            target = rename_source_key(name, renamings, converters, prefix, state)[0]
            if target not in state and name in state:
                target = rename_source_key(name, [], [], prefix, state)[0]
            if target.startswith(f"{self.name}.layers."):
                number = int(target.removeprefix(f"{self.name}.layers.").partition(".")[0])
                names.setdefault(number, []).append(name)
            elif target.startswith(f"{embedding_name}."):
                names[EMBEDDING].append(name)
            elif target.startswith(f"{self.name}."):
                names[REST].append(name)
        return names

    def _read(self, part: object) -> dict[str, torch.Tensor]:
        tensors = {name: self.tensors[name] for name in self.names[part]}
        size = sum(aligned(tensor.size, ALIGN_BYTES) for tensor in tensors.values())
        if isinstance(part, str):
            return read_tensors(tensors, torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned))
        slot = part % 2 if self.prefetch else 0
        if self.buffers[slot] is None:  # of the largest layer, and used again: fresh memory costs more than the copy
            largest = max(sum(aligned(self.tensors[name].size, ALIGN_BYTES) for name in self.names[layer])
                          for layer in range(len(self.layers)))
            self.buffers[slot] = torch.empty(largest, dtype=torch.uint8, pin_memory=self.pinned)
        return read_tensors(tensors, self.buffers[slot])

    def _load(self, part: object) -> None:
        ahead = self.ahead.pop(part, None)
        put_weights(self.model, ahead.result() if ahead else self._read(part), self.device)

    def _initialize_buffers(self) -> None:
        """Compute the buffers that no checkpoint holds, such as rotary frequencies."""
        self.model._move_missing_keys_from_meta_to_device(set(), {"": self.device}, None, None)
        self.model._initialize_missing_keys(False)

    @staticmethod
    def _free(part: nn.Module) -> None:
        for module in part.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    module._buffers[name] = buffer.to("meta")
