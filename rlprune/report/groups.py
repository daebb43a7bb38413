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
            "approximate": list(group.approximate),
            "remarks": list(group.remarks),
            "macs_share": cost.macs_share(group.name),
        }
        for group in groups
    ]
    return {
        "groups": listed,
        "macs": total,
        "parameters": cost.parameters(),
        "uncounted": list(groups.uncounted),
        "attributes": [
            {"module": a.module, "name": a.name, "value": a.value, "groups": [group for group, _ in a.terms]}
            for a in groups.attributes
        ],
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
    notes = [f"locked {entry['name']}: {entry['locked']}" for entry in found["groups"] if entry["locked"]]
    for entry in found["groups"]:
        if not entry["locked"]:
            notes += [f"approximate {entry['name']}: {reason}" for reason in entry["approximate"]]
            notes += [f"{entry['name']}: {remark}" for remark in entry["remarks"]]
    for number in found["attributes"]:
        path = ".".join(part for part in (number["module"], number["name"]) if part)
        notes.append(f"{path} = {number['value']} follows {', '.join(number['groups'])}")
    if found["uncounted"]:
        notes.append(f"not counted, for their MACs are not known: {', '.join(found['uncounted'])}")
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{100 * found['prunable_macs_share']:.1f} % of the MACs are in layers whose filters can be pruned.")
