"""Modes of libraries and options of llama.cpp's tools that the environment can set: they change results, not records.

Every command takes them out of its environment before a library reads them (safe_files.py), so they reach no tool,
either. What says where the work is done, with how much memory, or what is logged stays. So does what loads other code
(LD_PRELOAD, PYTHONPATH, GGML_BACKEND_PATH), or takes that of another processor (ATEN_CPU_CAPABILITY):
docs/release-and-ollama.md says why.
"""

from collections.abc import Mapping, MutableMapping

# oneDNN's products in bf16, TF32 of NVIDIA's libraries, MKL's branches and llama.cpp's options among others.
FAMILIES = ("LLAMA_", "GGML_", "ONEDNN_", "DNNL_", "CUBLAS_", "NVIDIA_TF32_")
# The last ends the import of matplotlib if it names no backend; pictures are drawn without a screen anyhow.
MODES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "MPLBACKEND")
PLACEMENT = {
    f"LLAMA_ARG_{name}"
    for name in ("THREADS", "DEVICE", "MAIN_GPU", "SPLIT_MODE", "TENSOR_SPLIT", "CPU_MOE", "N_CPU_MOE", "MLOCK", "FIT")
}
PLACEMENT |= {"GGML_CUDA_ENABLE_UNIFIED_MEMORY", "GGML_CUDA_NO_PINNED", "GGML_VK_VISIBLE_DEVICES"}
KEPT = PLACEMENT | {
    *("LLAMA_CPP", "LLAMA_CPP_LIB_PATH", "GGML_BACKEND_PATH", "GGML_NO_BACKTRACE", "CUBLAS_WORKSPACE_CONFIG"),
    *("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "ONEDNN_VERBOSE", "DNNL_VERBOSE"),
}


def is_mode(name: str) -> bool:
    """Tell whether a variable of the environment could change a result behind its record's back."""
    return name in MODES or name.startswith(FAMILIES) and name not in KEPT


def without_modes(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a tool."""
    return {name: value for name, value in environment.items() if not is_mode(name)}


def remove_modes(environment: MutableMapping[str, str]) -> None:
    """Take the modes out of the environment of this process."""
    for name in [name for name in environment if is_mode(name)]:
        del environment[name]
