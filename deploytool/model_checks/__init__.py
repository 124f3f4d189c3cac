"""Checks of the user's model: purity, batch handling, values baked in by an exporter, causes of a failed export."""
