"""What a person sees: figures, tables, descriptions of models and networks."""
