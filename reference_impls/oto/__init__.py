"""Only Train Once: optimizers that set whole groups to zero while they train, and the subnet that is left.

oto = OTO(model, example_inputs)
optimizer = oto.hesso(lr=0.1, target_group_sparsity=0.5, start_pruning_step=100, pruning_steps=200)
... train as ever ...
subnet = oto.construct_subnet()
"""

from reference_impls.oto.adahspg import AdaHSPG
from reference_impls.oto.cric import HESSOCRIC, Cycles
from reference_impls.oto.dhspg import DHSPG
from reference_impls.oto.front import OTO
from reference_impls.oto.hesso import HESSO
from reference_impls.oto.hspg import HSPG
from reference_impls.oto.lhspg import LHSPG
from reference_impls.oto.lora import Adapters, Lora, adapters, attach
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.wrapper import SparseOptimizer

__all__ = [
    "DHSPG",
    "HESSO",
    "HESSOCRIC",
    "HSPG",
    "LHSPG",
    "OTO",
    "AdaHSPG",
    "Adapters",
    "Criteria",
    "Cycles",
    "Lora",
    "Quota",
    "Rows",
    "SparseOptimizer",
    "adapters",
    "attach",
]
