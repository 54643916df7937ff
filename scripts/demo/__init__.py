"""The demo model: the questions it answers, its tokenizer, its shape, and how it is trained."""
