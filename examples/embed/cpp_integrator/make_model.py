"""Write the flow that the integrator begins with: unfitted, on the unit cube.

python make_model.py MODEL.safetensors
"""

import sys

import penstock as ps

ps.nsf_ar(6, layers=3, mixing="reverse", support=(0, 1), rng=0).save(sys.argv[1])
