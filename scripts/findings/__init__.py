"""What the model's experts are like: how domains, weights, outputs, precisions and drop maps differ, with controls."""
