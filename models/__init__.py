"""The zoo: one file a family of light networks, and in `specs` a table of every model with its published figures."""
