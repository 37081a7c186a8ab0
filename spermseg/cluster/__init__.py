"""Ray as this project uses it: what it is told, and a cluster for as long as a block runs."""
