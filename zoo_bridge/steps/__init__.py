"""The five steps of the loop, each a story: read, compute, write, report.

`pull`, `aggregate`, `retrain`, `score` and `upload` are the stories; `context` is what each is
given and gives back, `inputs` what several begin with. A folder beside them is the workshop of one
step: `pulling`, `counting`, `training`, `scoring`, `batches`.
"""
