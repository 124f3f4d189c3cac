"""The boundary to the user's model: how it is built, fed, asked in FP64, and what its answers are called."""
