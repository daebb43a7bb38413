"""rlprune.envs."""

if __name__ == "envs":
    raise ImportError("this folder is the package rlprune.envs: write `import rlprune.envs`, not `import envs`")
