"""Release folders: manifest, cards, gates and the upload."""
