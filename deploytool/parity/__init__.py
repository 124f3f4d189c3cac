"""What is true: numpy in, numbers out."""
