"""A network in Brian2: forward, and learning online."""
