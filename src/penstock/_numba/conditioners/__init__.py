"""Networks over a tile."""
