"""The decoder of a checkpoint, loaded with transformers: whole, or one layer at a time.

`LayerStream` builds the model without weights and gives each layer its own only while it runs. Masks, position
embeddings and whatever else a layer takes come from the model's own forward pass, in which every other layer hands its
input on. A streamed layer computes the bits of one loaded whole: weights reach it through the loader that
`from_pretrained` uses (transformers.core_model_loading, pinned), and fp32 products do not depend on where the weights
lie in memory, nor on the number of threads (MKL's reproducible mode).
"""

import ctypes
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

# Read at the first use of each library. oneDNN keeps code for up to 1024 shapes of a product, and every expert has its own.
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

import torch  # noqa: E402
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: E402
from transformers.core_model_loading import convert_and_load_state_dict_in_model  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, LoadStateDictConfig  # noqa: E402

from analysis.expert_observer import expert_modules  # noqa: E402
from analysis.layer_reader import TORCH_DTYPES, Piece, memory_size, pieces_of, read_pieces  # noqa: E402
from checkpoints.checkpoint import TensorRange  # noqa: E402
from files.safe_files import InputError  # noqa: E402

WEIGHT_DTYPES = ("F32", "BF16", "F16", "F64")
RUN_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUERY_ROWS = 256
EMBEDDING, REST = "embedding", "rest"


def stored_dtype(directory: Path, config: dict, tensors: dict[str, TensorRange]) -> torch.dtype:
    """Return the dtype a checkpoint is meant to run in: its config's, else that of its largest tensor.

    Raises InputError when that is not one of RUN_DTYPES.
    """
    text = config.get("text_config") or {}
    name = next(
        (c[key] for c in (config, text) if isinstance(c, dict) for key in ("dtype", "torch_dtype") if c.get(key)), None
    )
    if name is None:
        name = str(TORCH_DTYPES[max(tensors.values(), key=lambda tensor: tensor.size).dtype]).removeprefix("torch.")
    if not isinstance(name, str) or name not in RUN_DTYPES:
        raise InputError(
            directory / "config.json",
            f"a checkpoint in {', '.join(RUN_DTYPES)}",
            f"dtype {name!r}"[:80],
            "choose one of them with --dtype",
        )
    return RUN_DTYPES[name]


def check_unquantised(directory: Path, config: dict, tensors: dict[str, TensorRange]) -> None:
    """Raise InputError when the config speaks of quantisation, or a tensor is stored in a packed dtype (indices are I64)."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and part.get("quantization_config"):
            raise InputError(
                directory / "config.json",
                "no quantization_config",
                repr(part["quantization_config"])[:80],
                "quantised checkpoints are not analysed",
            )
    for name, tensor in tensors.items():
        packed = tensor.dtype == "I32" and len(tensor.shape) > 1  # how GPTQ and AWQ store 4-bit weights
        if tensor.dtype not in TORCH_DTYPES or packed:
            raise InputError(
                tensor.file,
                f"{name} in {', '.join(WEIGHT_DTYPES)}",
                tensor.dtype,
                "quantised checkpoints are not analysed",
            )


def eager_in_blocks(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options,
) -> tuple[torch.Tensor, None]:
    """Run a family's own eager attention for QUERY_ROWS queries at a time, so that its memory grows with the length only.

    query, key, value: [batch, heads, tokens, head_dim]; mask: [batch, 1 or heads, tokens, tokens]. Each query's
    softmax is its own, so the blocks are independent. Returns [batch, tokens, heads, head_dim].
    """
    eager, rows = sys.modules[type(module).__module__].eager_attention_forward, query.shape[2]
    if (
        attention_mask is None
        or attention_mask.dim() != 4
        or attention_mask.shape[2] != rows
        or any(isinstance(option, torch.Tensor) and option.dim() > 2 for option in options.values())
    ):
        return eager(module, query, key, value, attention_mask, **options)
    blocks = [
        eager(
            module,
            query[:, :, first : first + QUERY_ROWS],
            key,
            value,
            attention_mask[:, :, first : first + QUERY_ROWS],
            **options,
        )[0]
        for first in range(0, rows, QUERY_ROWS)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1), None


ALL_ATTENTION_FUNCTIONS.register("eager", eager_in_blocks)


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
            return transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention
            ).eval()
    except Exception as error:  # whatever the library makes of a user's file
        raise InputError(
            directory / "config.json",
            "a causal language model that transformers builds",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
        ) from error


def load_resident(directory: Path, dtype: torch.dtype, attention: str, device_map: object) -> nn.Module:
    """Load a checkpoint whole; raise InputError when a weight of its decoder is missing."""
    placement = {"device_map": device_map} if device_map else {}
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation=attention, output_loading_info=True, **placement
        )
    except Exception as error:  # whatever the library makes of a user's files
        raise InputError(
            directory,
            "a checkpoint that transformers loads",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
        ) from error
    refuse_lacking(model, directory, report["missing_keys"], report["mismatched_keys"])
    return model.eval()


def refuse_lacking(model: nn.Module, directory: Path, missing: set, mismatched: set) -> None:
    """Raise InputError when keys that a loader did not find, or not in shape, are the decoder's (a head is not used)."""
    inside = f"{decoder_of(model)[0]}."
    for kind, keys in (("missing", missing), ("of another shape", mismatched)):
        lacking = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if lacking := [key for key in lacking if key.startswith(inside)]:
            raise InputError(directory, f"every weight of {type(model).__name__}", f"{lacking[0]} {kind}")


def put_weights(model: nn.Module, weights: dict[str, torch.Tensor], device: torch.device):
    """Put checkpoint tensors into a model as from_pretrained does (renamed, merged, cast); return what did not fit."""
    return convert_and_load_state_dict_in_model(
        model,
        weights,
        LoadStateDictConfig(
            device_map={"": device},
            dtype=model.dtype,
            dtype_plan=model._get_dtype_plan(model.dtype),
            weight_mapping=get_model_conversion_mapping(model),
        ),
    )[0]


def check_complete(model: nn.Module, directory: Path, tensors: dict[str, TensorRange]) -> None:
    """Raise InputError when the headers of a checkpoint do not give every weight of the decoder in its shape.

    `model` is one from `build_empty`; no weight is read. Floating weights must be stored as such.
    """
    state = model.state_dict()
    for target, pieces in pieces_of(model, tensors).items():
        for source in (source for piece in pieces for source in piece.sources):
            if target in state and state[target].is_floating_point() and source.dtype not in WEIGHT_DTYPES:
                raise InputError(source.file, f"{target} in {', '.join(WEIGHT_DTYPES)}", source.dtype)
    blank = {
        name: torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype], device="meta")
        for name, tensor in tensors.items()
    }
    report = put_weights(model, blank, torch.device("meta"))
    refuse_lacking(model, directory, report.missing_keys, report.mismatched_keys)


def tensors_in(values: list) -> list[torch.Tensor]:
    """Return the tensors among values, those in lists, tuples and dictionaries included."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)):
            found += tensors_in(list(value.values() if isinstance(value, dict) else value))
    return found


def release_free_memory() -> None:
    """Give freed heap memory back to the system where the C library can (glibc); long inputs leave holes of some 300 MB."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


class LayerStream:
    """A model of which only one decoder layer at a time has weights."""

    def __init__(
        self,
        directory: Path,
        tensors: dict[str, TensorRange],
        model: nn.Module,
        device: torch.device,
        prefetch: bool | None = None,
    ) -> None:
        """Take a model from `build_empty`; the parts other than layers and embedding get their weights at once.

        `prefetch` reads the next layer while one computes (by default on a GPU only: it holds two layers in memory).
        Raises InputError when layers depend on more than the hidden states of the layer before.
        """
        text = model.config.get_text_config()
        for key in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
            if getattr(text, key, 0):
                raise InputError(
                    directory / "config.json",
                    f"{key} 0 (layers that need only the layer before)",
                    str(getattr(text, key)),
                    "analyse it without --stream-layers",
                )
        self.model, self.device = model, device
        self.pinned = device.type == "cuda"
        self.prefetch = self.pinned if prefetch is None else prefetch
        self.name, self.decoder = decoder_of(model)
        self.layers: list[nn.Module] = list(self.decoder.layers)
        self.pieces = self._pieces(tensors)
        self.reader = ThreadPoolExecutor(1)
        self.ahead: dict[object, Future] = {}
        self.buffers: list[torch.Tensor | None] = [None, None]
        self._load(REST)
        self._initialize_buffers()
        self.running: int | None = None
        self.given: list[torch.Tensor] | None = None
        for number, layer in enumerate(self.layers):
            layer.forward = partial(self._visit, number, layer.forward)
        self._check_layers(directory)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states that enter layer 0, [batch, tokens, hidden], on the host."""
        self.running, self.state = None, None
        self.decoder(input_ids=ids.to(self.device), attention_mask=self._on_device(mask), use_cache=False)
        return self._to_host(self.state)

    def run_layer(self, number: int, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states that leave layer `number`, on the host; the layer must be loaded."""
        self.running, self.state = number, hidden.to(self.device, non_blocking=True)
        self._pass(hidden.shape[0], hidden.shape[1], mask)
        state, self.state = self.state, None
        release_free_memory()
        return self._to_host(state)

    def hold(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states as they wait on the host for the next layer (pinned for a GPU)."""
        return hidden.pin_memory() if self.pinned else hidden

    def _pass(self, batch: int, tokens: int, mask: torch.Tensor | None, value: float = 0.0) -> None:
        """Run the decoder on blank embeddings: all layers hand them on but the one whose turn it is."""
        size = self.model.config.get_text_config().hidden_size
        blank = torch.full((batch, tokens, size), value, dtype=self.model.dtype, device=self.device)
        self.decoder(inputs_embeds=blank, attention_mask=self._on_device(mask), use_cache=False)

    @torch.inference_mode()
    def _check_layers(self, directory: Path) -> None:
        """Raise InputError when a layer takes or returns more than hidden states and what depends on positions.

        What the layers are given beside the hidden states must be the same for two different inputs.
        """
        given: list[list[torch.Tensor]] = []
        try:
            for value in (0.0, 1.0):
                self.given = []
                self._pass(1, 2, None, value)
                given.append(self.given)
            alike = len(given[0]) == len(given[1]) and all(map(torch.equal, *given))
        except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
            alike = False
        self.given = None
        if not alike:
            raise InputError(
                directory / "config.json",
                "layers that take and return hidden states only",
                f"{type(self.layers[0]).__name__}, which does not",
                "analyse it without --stream-layers",
            )

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
            for source in (source for piece in self.pieces[following] for source in piece.sources):
                with open(source.file, "rb") as file:
                    os.posix_fadvise(file.fileno(), source.offset, source.size, os.POSIX_FADV_WILLNEED)

    def free_layer(self, number: int) -> None:
        """Take a layer's weights away."""
        self._free(self.layers[number])

    def _visit(self, number: int, forward, *args, **kwargs) -> torch.Tensor:
        """Stand in for a layer's forward: run it if it is its turn, else hand the input on."""
        incoming = args[0] if args else kwargs.pop("hidden_states")
        if self.given is not None:
            if "input_ids" in kwargs:
                raise ValueError("a layer that reads the token ids")
            self.given += tensors_in([*args[1:], *kwargs.values()])
        if self.running is None and number == 0:
            self.state = incoming
        if self.running == number:
            self.state = forward(self.state, *args[1:], **kwargs)
            if not isinstance(self.state, torch.Tensor):
                raise InputError(
                    type(self.layers[number]).__name__,
                    "a layer that returns hidden states",
                    f"a {type(self.state).__name__}",
                    "analyse it without --stream-layers",
                )
        return incoming

    def _on_device(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        return None if mask is None else mask.to(self.device)

    def _to_host(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.pinned:
            return hidden
        return torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True).copy_(hidden)

    def _pieces(self, tensors: dict[str, TensorRange]) -> dict[object, list[Piece]]:
        """Return what the checkpoint holds of each part: layer numbers, EMBEDDING and REST of the decoder."""
        embedding = self.decoder.get_input_embeddings()
        embedding_name = next(name for name, module in self.model.named_modules() if module is embedding)
        state = self.model.state_dict()
        parts: dict[object, list[Piece]] = {part: [] for part in (EMBEDDING, REST, *range(len(self.layers)))}
        for target, pieces in pieces_of(self.model, tensors).items():
            if target not in state:
                continue
            if target.startswith(f"{self.name}.layers."):
                parts[int(target.removeprefix(f"{self.name}.layers.").partition(".")[0])].extend(pieces)
            elif target.startswith(f"{embedding_name}."):
                parts[EMBEDDING].extend(pieces)
            elif target.startswith(f"{self.name}."):
                parts[REST].extend(pieces)
        return parts

    def _read(self, part: object) -> dict[str, torch.Tensor]:
        if isinstance(part, str):
            size = memory_size(self.pieces[part])
            return read_pieces(self.pieces[part], torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned))
        slot = part % 2 if self.prefetch else 0
        if self.buffers[slot] is None:  # of the largest layer, and used again: fresh memory costs more than the copy
            largest = max(memory_size(self.pieces[layer]) for layer in range(len(self.layers)))
            self.buffers[slot] = torch.empty(largest, dtype=torch.uint8, pin_memory=self.pinned)
        return read_pieces(self.pieces[part], self.buffers[slot])

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
