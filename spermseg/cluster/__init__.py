"""How this project starts Ray or joins a cluster, watches it, and ends it."""
