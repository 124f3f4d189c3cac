"""`python -m deploytool` is `deploytool`."""

from deploytool.cli import main

main()
