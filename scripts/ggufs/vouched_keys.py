"""The keys of a header that say what a model is called and whose it is, as far as this project vouches for them."""

from ggufs.gguf_header import GgufHeader

GENERAL, SAMPLING = "general.", "general.sampling."  # the latter: numbers of generation_config.json
VOUCHED = (
    "general.alignment",
    "general.architecture",
    "general.file_type",
    "general.license",
    "general.license.link",
    "general.license.name",
    "general.name",
    "general.quantization_version",
    "general.size_label",
    "general.type",
)


def unvouched(header: GgufHeader) -> list[str]:
    """Return the general keys of a header that nothing here vouches for: words of somebody else about another model."""
    return [
        pair.key
        for pair in header.key_values
        if pair.key.startswith(GENERAL)
        and pair.key not in VOUCHED
        and not (pair.key.startswith(SAMPLING) and isinstance(pair.value, (int, float)))
    ]
