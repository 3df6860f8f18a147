"""What is true: plain values and rules. Standard library only, no clock, no I/O."""
