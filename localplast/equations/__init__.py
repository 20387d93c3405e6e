"""Brian2's language: text to sympy and back, derivatives, and programs run on numpy arrays or torch tensors."""
