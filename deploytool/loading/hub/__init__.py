"""Models by the name that their library gives them: `hf:ORG/NAME`, `hf:./folder` and `timm:NAME`."""
