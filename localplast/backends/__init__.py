"""Engines that run a network: ``brian2`` (forward and online), ``torch`` (batched, differentiable), ``c`` (generated
kernels).
"""
