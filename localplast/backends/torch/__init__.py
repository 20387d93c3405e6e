"""A network in plain Torch: batched, differentiable, and learning by traces carried forward."""
