"""The words that the demo model was trained on."""
