"""Experiments: protocols, comparisons of rules, phenomena, and their reports."""
