"""The channel groups of a network, for people and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlprune.channels import ChannelGroups
from rlprune.cost import CostModel


def describe_groups(groups: ChannelGroups, cost: CostModel) -> dict[str, Any]:
    """Every group with its couplings, its lock and its share of the MACs, in plain values."""
    total = cost.macs()
    listed = [
        {
            "name": group.name,
            "size": group.size,
            "locked": group.locked,
            "producers": list(group.producers),
            "consumers": list(group.consumers),
            "kinds": sorted(group.kinds),
            "macs_share": cost.macs_share(group.name),
        }
        for group in groups
    ]
    return {
        "groups": listed,
        "macs": total,
        "parameters": cost.parameters(),
        "prunable_macs_share": sum(entry["macs_share"] for entry in listed if entry["locked"] is None),
    }


def print_groups(groups: ChannelGroups, cost: CostModel, console: Console) -> None:
    """Print `describe_groups` as a table, and the reason of every lock below it."""
    found = describe_groups(groups, cost)
    table = Table(
        title=f"{len(groups)} channel groups, {found['macs']:,} MACs, {found['parameters']:,} parameters",
        title_justify="left",
    )
    for column in ("group", "filters", "MACs", "coupled with", "read by", "kind"):
        table.add_column(column, justify="right" if column in ("filters", "MACs") else "left", overflow="fold")
    for entry in found["groups"]:
        table.add_row(
            escape(entry["name"]),
            "locked" if entry["locked"] else str(entry["size"]),
            f"{100 * entry['macs_share']:.1f} %",
            escape(", ".join(name for name in entry["producers"] if name != entry["name"])),
            escape(", ".join(entry["consumers"])),
            " ".join(entry["kinds"]),
        )
    console.print(table)
    for entry in found["groups"]:
        if entry["locked"]:
            console.print(f"locked {entry['name']}: {entry['locked']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{100 * found['prunable_macs_share']:.1f} % of the MACs are in layers whose filters can be pruned.")
