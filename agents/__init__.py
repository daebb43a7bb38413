"""rlprune.agents."""

if __name__ == "agents":
    raise ImportError("this folder is the package rlprune.agents: write `import rlprune.agents`, not `import agents`")
