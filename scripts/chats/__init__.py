"""Questions in GPQA's columns, and the chats that a model reads them as."""
