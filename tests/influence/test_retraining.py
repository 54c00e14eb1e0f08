"""Retraining: the same numbers whatever the processes, the kills and the order."""

import importlib.util
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from trustml.errors import StoreMismatchError
from trustml.influence import leave_one_out, retrain
from trustml.model import wrap
from trustml.warnings import BackendWarning, ConvergenceWarning

X, Y = load_diabetes(return_X_y=True)
X, Y, XQ, YQ = X[:60], Y[:60], X[60:70], Y[60:70]


def ridge(alpha=0.2):
    return wrap(Ridge(alpha=alpha).fit(X, Y), train=(X, Y))


def noisy_network(train_fn):
    rows = torch.as_tensor(X), torch.as_tensor(Y[:, None])
    return wrap(nn.Linear(10, 1).double(), task="regression", train=rows, train_fn=train_fn)


def drawn(rows, targets):
    return nn.Linear(10, 1).double()  # its weights come from the global generator


drawn.__module__ = "__main__"  # a worker cannot import tests: send it whole


def ask(model, **kwargs):
    return retrain(model, torch.as_tensor(XQ), torch.as_tensor(YQ[:, None]), **kwargs)


def test_each_cell_is_the_model_trained_on_its_rows():
    model = ridge()
    found = retrain(model, XQ, YQ, subsets=4, fraction=0.7, random_state=0)
    assert found.values.shape == (4, 1, 10)
    assert (found.keep.sum(1) == 42).all()
    for keep, values in zip(found.keep, found.values, strict=True):
        np.testing.assert_allclose(values[0], model.retrain(keep).loss(XQ, YQ), rtol=1e-12)
    assert "4 subsets of 60 rows, 1 seeds" in repr(found)
    np.testing.assert_allclose(found.to_frame()["mean"], found.values.mean((1, 2)))


def test_subsets_are_numbers_masks_or_lists_of_rows():
    model, keep = ridge(), np.random.default_rng(0).random((3, 60)) < 0.6
    masks = retrain(model, XQ, YQ, subsets=keep)
    rows = retrain(model, XQ, YQ, subsets=[np.flatnonzero(k) for k in keep])
    np.testing.assert_array_equal(masks.values, rows.values)
    np.testing.assert_array_equal(masks.keep, rows.keep)


def test_seeds_make_random_training_repeat_and_leave_the_global_generators_alone():
    model = noisy_network(drawn)
    before = torch.get_rng_state()
    first = ask(model, subsets=3, seeds=2, random_state=0)
    second = ask(model, subsets=first.keep, seeds=(1, 0))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.values, second.values[:, ::-1])
    assert not np.allclose(first.values[:, 0], first.values[:, 1])


def test_processes_change_nothing():
    model = noisy_network(drawn)
    one = ask(model, subsets=5, seeds=2, random_state=0)
    two = ask(model, subsets=5, seeds=2, random_state=0, n_jobs=2)
    np.testing.assert_array_equal(one.values, two.values)
    left_out = leave_one_out(ridge(), [3, 5, 8], XQ, YQ)
    np.testing.assert_array_equal(left_out, leave_one_out(ridge(), [3, 5, 8], XQ, YQ, n_jobs=2))


def test_what_cannot_be_sent_to_a_process_runs_here_and_says_so():
    lock = threading.Lock()

    def locked(rows, targets):
        with lock:
            return drawn(rows, targets)

    with pytest.warns(BackendWarning, match="one after another"):
        here = ask(noisy_network(locked), subsets=3, random_state=0, n_jobs=2)
    np.testing.assert_array_equal(
        here.values, ask(noisy_network(locked), subsets=3, random_state=0).values
    )


def test_threads_of_torch_are_put_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ask(ridge(), subsets=2, random_state=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


SCRIPT = """
import os, random, signal, sys, time
import torch
from torch import nn
from sklearn.datasets import load_diabetes
from trustml.influence import retrain
from trustml.model import wrap

X, Y = (torch.as_tensor(a) for a in load_diabetes(return_X_y=True))
calls = []

def train(rows, targets, random_state):
    calls.append(random_state)
    if "BEGUN" in os.environ:
        os.write(int(os.environ["BEGUN"]), b".")
    time.sleep(0.01)
    net = nn.Linear(10, 1).double()
    with torch.no_grad():
        net.weight.copy_(torch.randn(1, 10).double() + rows.mean(0))
    return net

def run(store=None):
    start = nn.Linear(10, 1).double()
    nn.init.zeros_(start.weight), nn.init.zeros_(start.bias)
    model = wrap(start, task="regression", train=(X[:50], Y[:50, None]), train_fn=train)
    kwargs = {"subsets": 40, "seeds": 2, "random_state": 0, "store": store}
    return retrain(model, X[50:57], Y[50:57, None], **kwargs)

if __name__ == "__main__":
    watch, begun = os.pipe()
    os.environ["BEGUN"] = str(begun)
    for i in range(5):  # each run in a process of its own, killed anywhere
        child = os.fork()
        if not child:
            run(sys.argv[1])
            os._exit(0)
        for _ in range(3 if i == 0 else 0):  # on a busy machine, too, something gets done
            os.read(watch, 1)
        time.sleep(random.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
"""


def test_a_killed_run_goes_on_and_gives_the_same_numbers(tmp_path):
    script, store = tmp_path / "killed.py", tmp_path / "store"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, str(script), str(store)], check=True)
    spec = importlib.util.spec_from_file_location("killed", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    resumed = module.run(store)
    assert 0 < len(module.calls) < 80  # what the killed runs finished is not trained again
    module.calls.clear()
    np.testing.assert_array_equal(resumed.values, module.run().values)
    assert len(module.calls) == 80
    module.calls.clear()
    np.testing.assert_array_equal(resumed.values, module.run(store).values)
    assert not module.calls


def test_string_labels_and_pipelines_can_be_stored(tmp_path):
    rows, labels = load_iris(return_X_y=True)
    words = np.array(["a", "b", "c"])[labels]
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, words)
    kwargs = {"subsets": 2, "random_state": 0, "store": tmp_path}
    model = wrap(fitted, train=(rows, words))
    first = retrain(model, rows, words, **kwargs)
    np.testing.assert_array_equal(first.values, retrain(model, rows, words, **kwargs).values)
    softer = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(rows, words)
    with pytest.raises(StoreMismatchError, match="training"):
        retrain(wrap(softer, train=(rows, words)), rows, words, **kwargs)


def test_an_error_in_a_worker_is_the_users_error():
    def fails(rows, targets):
        raise RuntimeError("no convergence today")

    fails.__module__ = "__main__"
    with pytest.raises(RuntimeError, match="no convergence today"):
        ask(noisy_network(fails), subsets=3, n_jobs=2)


def test_a_folder_of_anything_else_is_refused(tmp_path):
    retrain(ridge(), XQ, YQ, subsets=2, random_state=0, store=tmp_path)
    for other, kwargs, named in (
        (ridge(0.3), {}, "model"),
        (ridge(), {"random_state": 1}, "subsets"),
        (ridge(), {"seeds": 2}, "seeds"),
        (ridge(), {"measure": lambda out, X, y: out[:, 0]}, "measure"),
        (wrap(Ridge(alpha=0.2).fit(X, Y), train=(X, Y[::-1].copy())), {}, "training data"),
    ):
        arguments = {"subsets": 2, "random_state": 0, "store": tmp_path, **kwargs}
        with pytest.raises(StoreMismatchError, match=named):
            retrain(other, XQ, YQ, **arguments)
    with pytest.raises(StoreMismatchError, match="queries"):
        retrain(ridge(), XQ[1:], YQ[1:], subsets=2, random_state=0, store=tmp_path)
    with pytest.raises(ValueError, match="give an int random_state"):
        retrain(ridge(), XQ, YQ, subsets=2, store=tmp_path)


def test_a_class_that_a_subset_lacks_is_named_before_any_training():
    rows, labels = load_iris(return_X_y=True)
    words = np.array(["a", "b", "c"])[labels]
    model = wrap(LogisticRegression(max_iter=1000).fit(rows, words), train=(rows, words))
    keep = np.ones((2, 150), dtype=bool)
    keep[1] = labels != 2
    with pytest.raises(ValueError, match=r"classes \['c'\]"):
        retrain(model, rows, words, subsets=keep)


def test_training_that_diverges_says_which():
    def diverges(rows, targets):
        net = nn.Linear(10, 1).double()
        nn.init.constant_(net.weight, np.nan if len(rows) < 20 else 0.0)
        return net

    keep = np.ones((2, 60), dtype=bool)
    keep[1, 15:] = False
    with pytest.warns(ConvergenceWarning, match=r"1 of 2 trainings.*\(1, 0\)"):
        ask(noisy_network(diverges), subsets=keep)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"subsets": 0}, ValueError, "positive integer"),
        ({"subsets": np.zeros((2, 60), bool)}, ValueError, "keep no row"),
        ({"subsets": [[0, 0]]}, ValueError, "twice"),
        ({"subsets": [[60]]}, ValueError, r"0\.\.59"),
        ({"subsets": [[0.5]]}, TypeError, "row numbers"),
        ({"subsets": np.ones((0, 60), bool)}, ValueError, "boolean array"),
        ({"seeds": 0}, ValueError, "positive integer"),
        ({"seeds": 2.0}, TypeError, "positive integer"),
        ({"seeds": (1, 1)}, ValueError, "distinct"),
        ({"seeds": ()}, ValueError, "distinct"),
        ({"seeds": "ab"}, TypeError, "integers"),
        ({"subsets": "half"}, ValueError, "boolean array"),
        ({"measure": lambda out, X, y: out.repeat(2, 1)}, ValueError, "one number a query"),
        ({"measure": lambda out, X, y: out.detach().numpy()}, ValueError, "ndarray"),
        ({"seeds": (-1,)}, ValueError, "distinct"),
        ({"n_jobs": 0}, ValueError, "n_jobs"),
        ({"n_jobs": True}, ValueError, "n_jobs"),
        ({"fraction": 1.0}, ValueError, "fraction"),
        ({"random_state": -1}, ValueError, "non-negative"),
    ],
)
def test_bad_input(kwargs, error, message):
    with pytest.raises(error, match=message):
        retrain(ridge(), XQ, YQ, **kwargs)


def test_ground_truth_needs_training_data_and_a_way_to_train():
    with pytest.raises(ValueError, match="train"):
        retrain(wrap(Ridge().fit(X, Y)), XQ, YQ)
    with pytest.raises(TypeError, match="train_fn"):
        ask(noisy_network(None), subsets=2)
