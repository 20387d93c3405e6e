"""Running: simulating and learning, with records, checkpoints and progress."""
