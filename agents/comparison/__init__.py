"""How `rlprune compare` is made: the grid of cells, the contestants, the stages of a cell, and who runs them."""
