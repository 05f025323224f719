"""Faults planted in correct subnets, and the judges that have to find them.

site        a model, a correct subnet of it, and a mutant: the subnet with one fault
values      faults in the values of one tensor
positions   faults in which positions of a dimension were kept
calls       faults in one operation that the subnet runs
extraction  faults of extraction as a whole, each found by one check
judges      our gate, and three others for comparison
"""

from planted import calls, positions, values
from planted.site import KINDS

__all__ = ["KINDS", "calls", "positions", "values"]
