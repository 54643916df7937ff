"""Safetensors checkpoints: their tensors, the families of models, and dropping experts from them."""
