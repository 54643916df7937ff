"""The language test bed: a small dense model whose neurons are split into experts, and English texts for it."""
