"""The game behind the environment: rounds, budgets, rewards, rolling back."""
