"""Files to arrays and back; knows no particular network."""
