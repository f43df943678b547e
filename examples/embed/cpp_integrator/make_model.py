"""Write the flow that the integrator begins with: unfitted, on the unit cube.

python make_model.py MODEL.safetensors
"""

import argparse

import penstock as ps

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="the file to write")
model = parser.parse_args().model
ps.nsf_ar(6, layers=3, mixing="reverse", support=(0, 1), rng=0).save(model)
