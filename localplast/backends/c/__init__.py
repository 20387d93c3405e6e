"""Generated C: kernels that run a network forward, backward and online."""
