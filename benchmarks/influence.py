"""Training data attribution beside the peers, against models that were really trained again.

The linear datamodelling score (LDS) of three small tasks: rank correlation, over random halves of
the training rows, of summed scores and of the losses of models trained on the halves; the same
retrained models for every contender. They are kept in .bench-cache, since they cost minutes.
Then the automatic damping beside a grid, unlearning beside retraining, and mislabelled rows.
Run `nox -s bench-peers` once, then `nox -s bench`.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

import trustml
from _bench import (
    Section,
    contend,
    plain,
    rank_correlation,
    run_sections,
    show,
    show_contenders,
    target,
)
from _networks import row_losses
from _ours import wrapped
from _tasks import RECIPES, NoData, digits, retrains, task_of
from trustml import ihvp

HERE = Path(__file__).parent
OURS = [("trustml", "all defaults"), ("trustml", "auto, damping auto"), ("trustml", "auto"),
        ("trustml", "EK-FAC"), ("trustml", "EK-FAC, damping auto")]  # fmt: skip
QUICK_PEERS = [("pydvl", "Nystroem rank 300"), ("kronfluence", "EK-FAC"), ("dattri", "EK-FAC")]
PEERS = [
    *QUICK_PEERS, ("pydvl", "Arnoldi rank 100"), ("pydvl", "EK-FAC"),
    ("curvlinops", "EK-FAC (type-2)"), ("curvlinops", "EK-FAC (Monte Carlo)"),
    ("kronfluence", "EK-FAC (default damping 1e-8)"), ("dattri", "TRAK 512"),
    ("trak", "TRAK 512"), ("captum", "Arnoldi (default)"), ("captum", "Arnoldi (200 of 200)"),
    ("captum", "TracInCP, one checkpoint"),
]  # fmt: skip

BEST_PEERS = [
    ("pydvl", "Nystroem rank 300"), ("pydvl", "Arnoldi rank 100"), ("pydvl", "EK-FAC"),
    ("curvlinops", "EK-FAC (type-2)"),
    ("kronfluence", "EK-FAC"), ("captum", "Arnoldi (200 of 200)"),
]  # fmt: skip


_FEW = 32  # queries of a quick run


def lds_of(scores: np.ndarray, keep: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The score of each query: what leaves is predicted to raise its loss by the sum of scores."""
    return rank_correlation((~keep).astype(float) @ scores.T, losses, axis=0)


def paired_interval(
    ours: np.ndarray, theirs: np.ndarray, keep: np.ndarray, losses: np.ndarray
) -> tuple[float, float]:
    """95 % bootstrap interval of the difference; both see the same subsets and queries."""
    rng = np.random.default_rng(0)
    left = (~keep).astype(float)
    sums = left @ ours.T, left @ theirs.T
    differences = []
    for _ in range(300):
        rows = rng.integers(len(losses), size=len(losses))
        asked = rng.integers(losses.shape[1], size=losses.shape[1])
        actual = losses[rows][:, asked]
        found = [rank_correlation(s[rows][:, asked], actual, axis=0).mean() for s in sums]
        differences.append(found[0] - found[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    return float(low), float(high)


def lds(name: str, quick: bool) -> Section:
    """The contenders on one of the tasks, each peer with two dampings, the better one counted."""
    task = task_of(name)
    keep, every = retrains(name, 8 if quick else 40)
    if quick:
        task = task | {"Xq": task["Xq"][:_FEW], "yq": task["yq"][:_FEW]}
        every = every[:, :, :_FEW]
    losses = every.mean(1)
    seeds = every.shape[1]
    ceiling = float("nan")
    if seeds > 1:
        halves = every[:, : (seeds + 1) // 2].mean(1), every[:, (seeds + 1) // 2 :].mean(1)
        ceiling = float(rank_correlation(*halves, axis=0).mean())
    results = contend(task, OURS[:1] if quick else OURS, 1 if quick else 3)
    peers = QUICK_PEERS if quick else PEERS
    found = contend(task, peers, 1 if quick else 2, patience=1)
    results += [{**r, "damping": task["damping"]} for r in found]
    if not quick:
        # Training's own L2 term is the other number that a user would give: for the best peers.
        other = {**task, "damping": task["weight_decay"]}
        found = contend(other, BEST_PEERS, 1)
        results += [{**r, "damping": other["damping"]} for r in found]
    for r in results:
        if "scores" in r and np.isfinite(r["scores"]).all():
            full = len(r["scores"]) == losses.shape[1]
            r["LDS"] = float(lds_of(r["scores"], keep, losses).mean()) if full else None
    results.sort(key=lambda r: -(r.get("LDS") or -2))
    show_contenders(
        f"{RECIPES[name].network}: {len(task['Xq'])} queries x {len(task['X'])} rows, {len(keep)} "
        f"halves x {seeds} trainings, which agree among themselves by {ceiling:.2f}",
        results, "damping", "moved", "LDS",
    )  # fmt: skip
    mine = max(
        (r for r in results if r["library"] == "trustml" and r["name"] in ("all defaults",)),
        key=lambda r: r.get("LDS", -1),
    )
    best = max((r for r in results if r["library"] != "trustml"), key=lambda r: r.get("LDS") or -1)
    low, high = paired_interval(mine["scores"], best["scores"], keep, losses)
    gap = mine["LDS"] - best["LDS"]
    targets = [
        target(f"LDS, {name}, all defaults - best peer", ">= 0.03", gap, gap >= 0.03,
               f"{mine['LDS']:.3f}; {best['library']} {best['name']} (damping {best['damping']:g}) "
               f"{best['LDS']:.3f}; 95 % interval of the difference {low:.3f} to {high:.3f}")
    ]  # fmt: skip
    if name == "digits":
        targets += [
            target("digits MLP, auto, LDS", ">= 0.66", mine["LDS"], mine["LDS"] >= 0.66),
            target("same, CPU s", "<= 1.0", mine["median_cpu_s"], mine["median_cpu_s"] <= 1),
            target("same, peak MB", "<= 300", mine["peak_mb"], mine["peak_mb"] <= 300),
        ]
        modes = [r for r in results if "trustml" in r["library"] and "EK-FAC" in r["name"]]
        if modes:
            mode = max(modes, key=lambda r: r.get("LDS", -1))
            targets += [
                target("digits MLP, EK-FAC, LDS", ">= 0.475", mode["LDS"], mode["LDS"] >= 0.475,
                       mode["name"]),
                target("same, CPU s", "<= 0.2", mode["median_cpu_s"],
                       mode["median_cpu_s"] <= 0.2),
            ]  # fmt: skip
    recorded = {"results": plain(results), "ceiling": ceiling, "interval": [low, high]}
    return recorded, targets


def lds_digits(quick: bool) -> Section:
    """LDS, digits perceptron: 40 halves, 5 trainings each."""
    return lds("digits", quick)


def lds_mnist(quick: bool) -> Section:
    """LDS, a small CNN on MNIST."""
    return lds("mnist", quick)


def lds_shakespeare(quick: bool) -> Section:
    """LDS, a nano-GPT on tinyshakespeare."""
    if quick:
        raise NoData("minutes of CPU for each contender; ask for it without --quick")
    return lds("shakespeare", quick)


def damping_grid(quick: bool) -> Section:
    """The automatic damping beside the best of nine, by LDS."""
    recorded, targets, rows = {}, [], []
    for name in ("digits",) if quick else ("digits", "mnist", "shakespeare"):
        task = task_of(name)
        keep, every = retrains(name, 8 if quick else 40)
        losses = every.mean(1)
        (auto,) = contend(task, [("trustml", "auto, damping auto")], 1)
        if "crash" in auto:
            raise RuntimeError(auto["crash"])
        chosen = float(lds_of(auto["scores"], keep, losses).mean())
        # Two decades either side of the middle one, which all methods are given.
        grid = task["damping"] * np.logspace(-2.5, 1.5, 9)
        model = wrapped(task)
        # The same matrix for all of them, in memory: by CG small dampings would take minutes each.
        matrix = ihvp.Dense(ihvp.GaussNewton(model.objective).dense().float())
        found = {}
        for damping in grid[::4] if quick else grid:
            influence = trustml.influence.InfluenceFunctions(
                model, curvature=lambda _, C=matrix: C, damping=float(damping), correction="none",
                method="cholesky",
            ).fit()  # fmt: skip
            scores = influence.scores(task["Xq"], task["yq"], scale="raw").values
            found[float(damping)] = float(lds_of(np.asarray(scores), keep, losses).mean())
        best = max(found, key=lambda key: found[key])
        ratio = chosen / found[best]
        rows.append([
            name, f"{auto['damping']:.2g}", f"{chosen:.3f}", f"{best:.2g}", f"{found[best]:.3f}",
        ])  # fmt: skip
        recorded[name] = {"auto": [auto["damping"], chosen], "grid": found}
        targets.append(
            target(f"damping auto, {name}, LDS / best of grid", ">= 0.95", ratio, ratio >= 0.95)
        )
    show("Damping", ["task", "auto", "LDS", "best of the grid", "LDS"], rows)
    return recorded, targets


def weights(model: trustml.Model) -> torch.Tensor:
    """The parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def unlearning(quick: bool) -> Section:
    """One per cent of the rows unlearned, beside retraining without them."""
    recorded, targets, rows = {}, [], []
    X, y, _, _ = digits()
    fits = {
        "logistic": (LogisticRegression(C=1.0, tol=1e-12, max_iter=50_000), X.double().numpy(),
                     y.numpy(), 1e-4),
        "ridge": (Ridge(alpha=1.0, tol=1e-12), *load_diabetes(return_X_y=True), 1e-8),
    }  # fmt: skip
    for name, (estimator, data, labels, aim) in fits.items():
        model = trustml.wrap(estimator.fit(data, labels), train=(data, labels))
        influence = trustml.influence.InfluenceFunctions(model).fit()
        full = weights(model)
        distances, moved = [], []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            leaving = rng.choice(len(data), max(1, len(data) // 100), replace=False)
            retrained = weights(model.retrain(np.setdiff1d(np.arange(len(data)), leaving)))
            removed = weights(influence.remove(leaving))
            distances.append(float((removed - retrained).norm() / retrained.norm()))
            moved.append(float((removed - retrained).norm() / (full - retrained).norm()))
        worst = max(distances)
        rows.append([name, str(len(leaving)), f"{worst:.1e}", f"{max(moved):.1e}"])
        recorded[name] = {"relative_distance": distances, "of the way": moved}
        targets.append(
            target(f"unlearning 1 % of rows, {name}, relative distance", f"<= {aim:g}", worst,
                   worst <= aim, f"{max(moved):.1e} of the way that retraining went")
        )  # fmt: skip
    show("Unlearning", ["model", "rows", "distance / weights", "distance / way to retrained"], rows)
    return recorded, targets


def mislabels(quick: bool) -> Section:
    """Digits with 10 % flipped labels: who finds them."""
    X, y, _, _ = digits()
    if quick:
        X, y = X[:500], y[:500]
    every, flips = [], []
    for seed in range(1 if quick else 2):
        rng = np.random.default_rng(seed)
        flipped = np.zeros(len(y), dtype=bool)
        flipped[rng.choice(len(y), len(y) // 10, replace=False)] = True
        wrong = y.clone()
        wrong[flipped] = (y[flipped] + torch.tensor(rng.integers(1, 10, flipped.sum()))) % 10
        recipe = RECIPES["digits"]
        net = recipe.train(X, wrong)
        flips.append(flipped)
        model = trustml.wrap(
            net, task="classification", train=(X, wrong), weight_decay=recipe.weight_decay
        )
        influence = trustml.influence.InfluenceFunctions(model).fit()
        found = {
            f"trustml {method}": trustml.influence.find_mislabeled(influence, method).scores
            for method in ("leave_one_out", "self_influence")
        }
        found["trustml, default"] = trustml.influence.find_mislabeled(influence).scores
        with torch.no_grad():
            found["the training loss alone"] = row_losses(net(X), wrong).numpy()
        task = {
            "network": recipe.network, "state": net.state_dict(), "damping": recipe.damping,
            "X": X, "y": wrong, "Xq": X, "yq": wrong,
        }  # fmt: skip
        peers = [("kronfluence", "EK-FAC"), ("pydvl", "Nystroem rank 300"), ("dattri", "EK-FAC")]
        if not quick:
            peers += [
                ("pydvl", "EK-FAC"), ("curvlinops", "EK-FAC (type-2)"), ("trak", "TRAK 512"),
                ("captum", "Arnoldi (200 of 200)"), ("captum", "TracInCP, one checkpoint"),
            ]  # fmt: skip
        for r in contend(task, peers, 1):
            if "scores" in r:  # a row's influence on its own loss
                found[f"{r['library']} {r['name']}"] = np.diag(r["scores"])
        every.append(found)
    names = [name for name in every[0] if all(name in found for found in every)]
    auc = {
        name: [roc_auc_score(f, found[name]) for f, found in zip(flips, every, strict=True)]
        for name in names
    }
    ranked = sorted(names, key=lambda name: -np.mean(auc[name]))
    show(
        f"Mislabelled rows, {len(flips)} draws", ["by", "AUC", "of each draw"],
        [[n, f"{np.mean(auc[n]):.4f}", " ".join(f"{a:.3f}" for a in auc[n])] for n in ranked],
    )  # fmt: skip
    ours = "trustml, default"
    best = next(name for name in ranked if not name.startswith("trustml"))
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(500):
        draw = []
        for f, found in zip(flips, every, strict=True):
            rows = rng.integers(len(f), size=len(f))
            draw.append(
                roc_auc_score(f[rows], found[ours][rows])
                - roc_auc_score(f[rows], found[best][rows])
            )
        differences.append(np.mean(draw))
    low, high = (float(q) for q in np.quantile(differences, [0.025, 0.975]))
    mean = float(np.mean(auc[ours]))
    return {"auc": auc, "interval": [low, high]}, [
        target("mislabelled digits, AUC", ">= 0.95", mean, mean >= 0.95),
        target("same, against the best peer, upper end of the paired interval", ">= 0", high,
               high >= 0, f"{best} {np.mean(auc[best]):.4f}; difference {low:.4f} to {high:.4f}"),
    ]  # fmt: skip


SECTIONS = {
    "lds-digits": lds_digits, "lds-mnist": lds_mnist, "lds-shakespeare": lds_shakespeare,
    "damping": damping_grid, "unlearning": unlearning, "mislabels": mislabels,
}  # fmt: skip

if __name__ == "__main__":
    run_sections(SECTIONS, __doc__, HERE / "results/influence.json")
