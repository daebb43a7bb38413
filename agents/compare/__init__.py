"""A grid of recipes, goals and seeds over the one engine."""
