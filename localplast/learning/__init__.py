"""How a rule follows from the equations: eligibility traces, learning signals, filters, optimisers."""
