"""Transfers bundles through an OCI registry, an archive, a web server, a folder or ssh; verifies every byte."""
