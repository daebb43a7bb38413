"""Stable-Baselines3 agents: training, loading, presets."""
