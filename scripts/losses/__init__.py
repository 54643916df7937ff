"""What a file loses against the full model: logits, KL divergence, tables and pictures."""
