"""The channel groups of a network, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlprune.channels import ChannelGroups
from rlprune.cost import CostModel
from rlprune.report.tables import print_table, say

if TYPE_CHECKING:
    from rich.console import Console

WORDS = ("coupled with", "read by", "kind")  # columns that are no numbers


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
    rows = [
        (
            entry["name"],
            "locked" if entry["locked"] else str(entry["size"]),
            f"{100 * entry['macs_share']:.1f} %",
            ", ".join(name for name in entry["producers"] if name != entry["name"]),
            ", ".join(entry["consumers"]),
            ", ".join(entry["kinds"]),
        )
        for entry in found["groups"]
    ]
    title = f"{len(groups)} channel groups, {found['macs']:,} MACs, {found['parameters']:,} parameters"
    heads = ("group", "filters", "MACs", *WORDS)
    print_table(console, heads, rows, left=WORDS, title=title)
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
        say(console, note)
    say(console, f"{100 * found['prunable_macs_share']:.1f} % of the MACs are in layers whose filters can be pruned.")
