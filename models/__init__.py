"""The model zoo: one module per family of small networks; `specs` lists all models with their published figures."""
