"""ggml's quantised types by its own library: weights written and read as llama-quantize and a model do."""

import ctypes
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType

NOT_FOR_WEIGHTS = {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64", "Q8_1", "Q8_K"}
# gguf-py, as pinned, does not know the last of them; llama.cpp, as pinned, does.
TYPES = {kind.name: kind.value for kind in GGMLQuantizationType if kind.name not in NOT_FOR_WEIGHTS} | {"Q2_0": 42}
TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    """The head of struct ggml_type_traits in ggml.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", TO_FLOAT),
    ]


class GgmlTypes:
    """The types of TYPES in libggml-base.so."""

    def __init__(self, tools: Path) -> None:
        self.library = ctypes.CDLL(str(next(tools.glob("bin/libggml-base.so"))))
        self.library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
        self.library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        quantize = self.library.ggml_quantize_chunk
        quantize.restype = ctypes.c_size_t
        quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def block(self, name: str) -> tuple[int, int]:
        """Return the weights in a block of a type, and its bytes."""
        traits = self.library.ggml_get_type_traits(TYPES[name]).contents
        return traits.block, traits.size

    def needs_imatrix(self, name: str) -> bool:
        """Tell whether a type is written only with an imatrix."""
        return bool(self.library.ggml_quantize_requires_imatrix(TYPES[name]))

    def through(self, name: str, weights: np.ndarray, imatrix: np.ndarray | None) -> np.ndarray:
        """Return weights [rows, columns] fp32 as a type holds them; imatrix: [columns], what each column weighs."""
        rows, columns = weights.shape
        block, size = self.block(name)
        source = np.ascontiguousarray(weights, np.float32)
        data = np.zeros(rows * columns // block * size, np.uint8)
        importance = None if imatrix is None else np.ascontiguousarray(imatrix, np.float32)
        pointer = None if importance is None else importance.ctypes.data
        self.library.ggml_quantize_chunk(TYPES[name], source.ctypes.data, data.ctypes.data, 0, rows, columns, pointer)
        out = np.empty_like(source)
        traits = self.library.ggml_get_type_traits(TYPES[name]).contents
        traits.to_float(data.ctypes.data, out.ctypes.data, source.size)
        return out
