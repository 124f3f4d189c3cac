"""Where an error begins: every tensor of every graph of a run, held against the source, and named by its module."""
