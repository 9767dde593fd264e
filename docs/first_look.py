"""A first look at a project from Python, as in a notebook.

Run it beside a settings file, or give it one: python docs/first_look.py demo/zoo_bridge.toml
"""

# %% Open a project. Nothing here changes its results; one picture is saved in work_dir.
import sys

import zoo_bridge

project = zoo_bridge.open(sys.argv[1] if len(sys.argv) > 1 else "zoo_bridge.toml")
print(project)

# %% Labels: how many volunteers of how many gave each answer.
labels = project.labels()
labels["fraction"] = labels.k / labels.n
print(labels.groupby(["question", "answer"]).fraction.describe().round(2))

# %% The catalogue, best first, with the survey's own columns; units are in attrs.
scores = project.scores(where="bald > 0", limit=200)
print(scores[["object_id", "mean", "lo", "hi", "bald"]].head())
print(scores.attrs["units"])

# %% How wide are the error bars of what the networks would like to know more of?
print((scores.hi - scores.lo).describe().round(2))

# %% One galaxy: its pixels as the network sees them, its votes, and what the model says.
name = scores.object_id[0]
image = project.cutout(name)
print(name, image.shape, f"{image.min():.2f} to {image.max():.2f}")

posterior = project.posterior(name)  # loads TensorFlow
print(posterior.p.round(3).to_string())
print(f"mean {posterior.mean:.2f}, 90 % interval {posterior.lo:.2f} to {posterior.hi:.2f}")
posterior.figure().savefig(project.settings.work / "posterior.png", dpi=120)

# %% What was run, what came of it, and what was set aside.
print(project.models()[["version", "in_use", "rmse", "log_likelihood"]].round(3))
print(project.batches()[["name", "state", "size"]])
print(project.runs(limit=5)[["job", "outcome", "message"]])
print(project.rejects().reason.value_counts())
