"""A run and a comparison in the form in which they are written, without running anything."""

import numpy as np
import pytest

from rlprune.report.analysis import analyse

LAYERS = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}


def figures(control, test, macs, parameters):
    found = {"metric": "accuracy", "macs": macs, "parameters": parameters}
    for split, value, size in (("control", control, 300), ("test", test, 450)):
        found |= {
            f"{split}_score": value,
            f"{split}_interval": [value - 0.02, min(1.0, value + 0.01)],
            f"{split}_size": size,
        }
    return found


BASE = figures(0.98, 0.975, 416520, 61706)


def rounds(count, left, drop, tolerance):
    lines = []
    for number in range(1, count + 1):
        share = number / count
        lines.append(
            {
                "round": number,
                "rates": dict.fromkeys(LAYERS, 0.5 * share),
                "removed": dict.fromkeys(LAYERS, 1),
                "macs": int(BASE["macs"] * (1 - (1 - left) * share)),
                "parameters": 30000,
                "score": 0.98 - drop * share,
                "drop": drop * share,
                "accepted": drop * share <= tolerance,
                "reward_terms": {"macs": 0.3 * share, "excess": -10 * max(0.0, drop * share - tolerance)},
            }
        )
    return lines


def stage(left, score, **more):
    return {
        "status": "finished",
        "data": "digits",
        "baseline": BASE,
        "pruned": figures(score, score - 0.004, int(BASE["macs"] * left), int(61706 * left)),
        "spent": {"evaluations": 9, "images_evaluated": 2700, "images_trained": 4000},
        "time": {"seconds": 3.2},
        **more,
    }


def cell(controller, kind, value, seed, score, left, count=1, tuned=True, layers=LAYERS, model="lenet5"):
    drop = 0.98 - score
    stages = {
        "prune": stage(
            left,
            score,
            drop=drop,
            goal_met=True,
            stopped="budget" if kind == "budget" else "tolerance",
            plan={"conv1": [0, 1]},
            widths=[{"name": n, "before": s, "after": max(2, round(s * left**0.5))} for n, s in layers.items()],
            rounds=rounds(count, left, drop * 1.3, value if kind == "tolerance" else 1.0),
            latency={"baseline": {"median_s": 5e-4, "iqr_s": 1e-5}, "pruned": {"median_s": 3e-4, "iqr_s": 1e-5}},
        )
    }
    if tuned:
        stages["finetune"] = stage(left, score + 0.01, epochs=2.0)
        stages["scratch"] = stage(left, score - 0.01, epochs=2.0)
    return {
        "id": f"{model}-digits-{controller}-{kind[0]}{value:g}-s{seed}",
        "controller": controller,
        "problem": {"model": model, "data": "digits"},
        "goal": {"kind": kind, "value": value},
        "seed": seed,
        "status": "finished",
        "stages": stages,
    }


def failed(controller, kind, value, seed):
    return {
        "id": f"lenet5-digits-{controller}-{kind[0]}{value:g}-s{seed}",
        "controller": controller,
        "problem": {"model": "lenet5", "data": "digits"},
        "goal": {"kind": kind, "value": value},
        "seed": seed,
        "status": "failed",
        "error": {"kind": "UserError", "message": "budget 0.1 cannot be met: <b>at least</b> 0.2 of the MACs stay"},
        "stages": {"prune": {"status": "failed"}},
    }


def make_comparison(controllers=("uniform", "random", "cem", "prc", "fpsl"), layers=LAYERS, models=("lenet5",)):
    generator = np.random.default_rng(3)
    cells = []
    for model in models:
        for number, name in enumerate(controllers):
            for seed in range(3):
                for left in (0.5, 0.25):
                    score = 0.95 - 0.12 * (0.5 - left) + 0.008 * number + float(generator.normal(0, 0.006))
                    count = 6 if name in ("prc", "fpsl") else 1
                    cells.append(
                        cell(name, "budget", left, seed, min(score, 0.989), left, count, layers=layers, model=model)
                    )
                left = 0.3 - 0.02 * number + float(generator.normal(0, 0.01))
                cells.append(cell(name, "tolerance", 0.01, seed, 0.973, left, 8, layers=layers, model=model))
    cells[-1] = failed(controllers[-1], "tolerance", 0.01, 2)
    return {
        "format": "rlprune-comparison-1",
        "name": "five schedules",
        "status": "finished",
        "settings": {},
        "command": "rlprune compare --controllers uniform,random,cem,prc,fpsl --budgets 0.5,0.25 --tolerances 0.01",
        "versions": {"python": "3.11", "torch": "2.8"},
        "cells": cells,
        "analysis": analyse(cells, "uniform"),
    }


def make_record():
    lines = rounds(9, 0.2, 0.012, 0.01)
    return {
        "status": "finished",
        "model": "lenet5",
        "seed": 0,
        "tolerance": 0.01,
        "settings": {"controller": "prc"},
        "data": {"name": "digits"},
        "command": "rlprune prune",
        "versions": {"python": "3.11"},
        "rounds": lines,
        "stopped": "tolerance",
        "baseline": BASE,
        "pruned": figures(0.974, 0.97, 83000, 9000),
        "drop": 0.006,
        "plan": {"conv1": [0]},
        "widths": [{"name": n, "before": s, "after": max(2, s // 2)} for n, s in LAYERS.items()],
        "cost": {"evaluations": 40, "images_evaluated": 12000, "images_trained": 9000},
        "latency": {"baseline": {"median_s": 5e-4, "iqr_s": 1e-5}, "pruned": {"median_s": 3e-4, "iqr_s": 1e-5}},
        "time": {"pruning_s": 14.5},
    }


@pytest.fixture
def comparison():
    return make_comparison()


@pytest.fixture
def few():
    return make_comparison(("uniform", "prc"))


@pytest.fixture
def record():
    return make_record()
