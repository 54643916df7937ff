"""Release folders: their files, names and manifest, what they were made from, and the upload."""
