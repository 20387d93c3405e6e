"""Interpreters of a network: ``brian2`` (forward and online) and ``torch`` (batched and differentiable)."""
