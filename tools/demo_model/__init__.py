"""The recipe of the demo model: its world, its training and its evaluation. The package never imports this folder."""
