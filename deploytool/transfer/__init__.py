"""The way to a device: a registry, one file, a web server, a stick or ssh, every byte verified as it comes."""
