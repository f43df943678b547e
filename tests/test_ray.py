"""The recipe for Ray in the documentation, as it is printed there."""

from __future__ import annotations

import re

from helpers import ROOT, door, python

door("ray")
door("ray.data")

USE = """
if __name__ == "__main__":
    import sys
    ray.init(num_cpus=6,  # more than actors, or what reads rows for them would wait for ever
              include_dashboard=False, log_to_driver=False)
    flow = ps.nsf(3, layers=2, hidden=(8,), rng=0)
    flow.params = flow.params + np.random.default_rng(1).normal(0, 0.3, flow.params.shape).astype(flow.dtype)
    flow.columns = ["a", "b", "c"]
    x = np.concatenate(list(draws(flow, 1003, 7, actors=2, chunk=100)))
    assert (x == flow.sample(1003, rng=7)).all()
    import pandas
    data = ray.data.from_pandas(pandas.DataFrame(x, columns=["c", "a", "b"])[["a", "b", "c"]]).repartition(5)
    found = with_log_prob(flow, data, actors=2).to_pandas()
    assert len(found) == len(x)
    assert (found["log_prob"].to_numpy() == flow.log_prob(found[["a", "b", "c"]])).all()
    ray.shutdown()
    print("the same")
"""


def test_the_recipe_for_ray_gives_the_bits_of_one_process() -> None:
    section = (ROOT / "docs" / "clusters.md").read_text().split("\n## Ray\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == 2
    done = python("\n".join([*blocks, USE]), env={"RAY_USAGE_STATS_ENABLED": "0"}, timeout=180)
    assert done.stdout.split("\n")[-2] == "the same"
