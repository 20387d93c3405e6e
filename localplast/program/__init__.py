"""What one time step does to a network that learns: the statements that every engine runs."""
