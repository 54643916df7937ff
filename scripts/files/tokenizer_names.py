"""The names of the files that make a tokenizer, as transformers saves and reads it."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # without one of them there is none
TEMPLATES_NAME = "additional_chat_templates"  # a folder
# Also of what comes before a tokenizer: transformers reads all of them when it loads one.
TOKENIZER_PARTS = (
    *(*TOKENIZER_FILES, "chat_template.jinja", "tokenizer_config.json", "merges.txt", "vocab.txt"),
    *("special_tokens_map.json", "added_tokens.json", "processor_config.json", "preprocessor_config.json"),
)
