"""What one must know of a graph to edit it: who makes and reads a tensor, its weights, its convolutions, its motifs."""
