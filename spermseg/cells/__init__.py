"""What is in a mask: cells and their measures."""
