"""What a picture becomes before the language model reads it: by llama.cpp's library, and by transformers."""

import ctypes
import os
from pathlib import Path

from llama.bindings import load_bindings

import numpy as np
import torch
from transformers import Gemma4ForConditionalGeneration

PATCH = 16


def picture(tall: int, wide: int, seed: int = 0) -> np.ndarray:
    """Return a random picture, uint8 [rows, columns, 3]; sides of multiples of 48 are not resized by either side."""
    return np.random.default_rng(seed).integers(0, 256, (tall, wide, 3), dtype=np.uint8)


def by_transformers(checkpoint: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the embeddings that transformers computes in fp32, [tokens, hidden]."""
    model = Gemma4ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    cut = (pixels.astype(np.float32) / 255).reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 1, 3, 4)
    places = [(x, y) for y in range(rows) for x in range(columns)]
    with torch.inference_mode():
        found = model.model.get_image_features(
            torch.from_numpy(cut.reshape(1, rows * columns, -1)), torch.tensor([places])
        )
    return found.pooler_output[0].numpy()


def by_llama_cpp(tools, model: Path, mmproj: Path, pixels: np.ndarray) -> np.ndarray:
    """Return the embeddings that llama.cpp computes with a file for pictures, [tokens, hidden].

    model: a GGUF of the same hidden size; its layers are not run.
    """
    api = load_bindings(tools.library_folder)
    os.environ["MTMD_CPP_LIB"] = str(tools.library_folder)
    from llama_cpp import mtmd_cpp  # here: the import loads the library that the variable names

    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    loaded = api.llama_model_load_from_file(os.fsencode(model), params)
    settings = mtmd_cpp.mtmd_context_params_default()
    settings.use_gpu, settings.n_threads, settings.warmup, settings.flash_attn_type = False, 1, False, 0
    context = mtmd_cpp.mtmd_init_from_file(os.fsencode(mmproj), loaded, settings)
    assert context, mmproj
    data = np.ascontiguousarray(pixels).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd_cpp.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], data)
    marker = mtmd_cpp.mtmd_get_marker(context)
    text = mtmd_cpp.mtmd_input_text(marker, len(marker), True, True)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    assert mtmd_cpp.mtmd_tokenize(context, chunks, text, (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap), 1) == 0
    parts = [mtmd_cpp.mtmd_input_chunks_get(chunks, i) for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks))]
    image = next(p for p in parts if mtmd_cpp.mtmd_input_chunk_get_type(p) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE)
    assert mtmd_cpp.mtmd_encode_chunk(context, image) == 0
    shape = mtmd_cpp.mtmd_input_chunk_get_n_tokens(image), api.llama_model_n_embd(loaded)
    found = np.ctypeslib.as_array(mtmd_cpp.mtmd_get_output_embd(context), shape).copy()
    mtmd_cpp.mtmd_input_chunks_free(chunks)
    mtmd_cpp.mtmd_bitmap_free(bitmap)
    mtmd_cpp.mtmd_free(context)
    api.llama_model_free(loaded)
    return found
