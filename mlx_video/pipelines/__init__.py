"""The only place where mathematics, networks, weights and media meet."""
