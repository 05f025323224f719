"""The front door: a model, an optimizer that prunes it while you train, and the subnet."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

import conformance as pc
from conformance.errors import UsageError
from conformance.graph.tape import as_arguments
from conformance.method import Budget, Cost, Limits, NotExactlyZero, Units, ladder, units
from conformance.method.budget import Kind, solve
from conformance.method.host import nonzero
from conformance.method.ladder import removable
from conformance.partition.selection import Selection
from reference_impls.oto.adahspg import AdaHSPG, Closure
from reference_impls.oto.cric import HESSOCRIC, Cycles
from reference_impls.oto.dhspg import DHSPG
from reference_impls.oto.half_space_methods import dhspg_defaults
from reference_impls.oto.hesso import HESSO
from reference_impls.oto.hspg import HSPG
from reference_impls.oto.kinds import ByKind
from reference_impls.oto.lhspg import LHSPG
from reference_impls.oto.lora import Also, Lora, adapters, attach
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.wrapper import SparseOptimizer

Variant = Literal["sgd", "adam", "adamw"]
Made = TypeVar("Made", bound=SparseOptimizer)


class OTO:
    """Train a model once and take the smaller one out of it.

    example_inputs is one tensor, a tuple of positional arguments, or a dict of keyword arguments; nothing is
    computed with them. The model is trained in place by your own loop. Move it to its device before an
    optimizer is made.

    Raises UsageError for a model without groups that could be removed exactly, TraceError for one that cannot
    be traced.
    """

    def __init__(self, model: torch.nn.Module, example_inputs: Any, limits: Limits | None = None) -> None:
        """Trace and partition; the model's modes stay as they were."""
        self.model, self.limits = model, limits or Limits()
        args, kwargs = ((), example_inputs) if isinstance(example_inputs, dict) else (as_arguments(example_inputs), {})
        modes = [(module, module.training) for module in model.modules()]
        try:
            self.groups = pc.partition(pc.trace(model.eval(), args, kwargs))
        finally:
            for module, training in modes:
                module.training = training
        if not self.groups.count:
            raise UsageError("no group was found: nothing of this model can be pruned exactly")
        self.cost = Cost(self.groups)
        self.optimizer: SparseOptimizer | None = None
        self._drawn: Selection | None = None

    # -- what must stay ------------------------------------------------------------------------

    def mark_unprunable(self, patterns: str | Iterable[str]) -> None:
        """Parameters or modules whose groups stay (`fc`, `layer1.*`). Raises UsageError for what matches nothing."""
        given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if self.optimizer is not None:
            raise UsageError("say what must stay before an optimizer is made")
        limits = replace(self.limits, ignore=(*self.limits.ignore, *given))
        removable(self.groups, limits.ignore)  # says what matches nothing
        self.limits = limits

    # -- optimizers ----------------------------------------------------------------------------

    def hesso(
        self,
        *,
        lr: float,
        target_group_sparsity: float,
        start_pruning_step: int,
        pruning_steps: int,
        pruning_periods: int = 10,
        variant: Variant = "sgd",
        criteria: Criteria | None = None,
        **base: Any,
    ) -> HESSO:
        """HESSO around SGD, Adam or AdamW. For the options of the base see `base_optimizer`."""
        return self._kept(
            HESSO(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity),
                start_step=start_pruning_step,
                pruning_steps=pruning_steps,
                periods=pruning_periods,
                criteria=criteria,
            )
        )

    def hesso_cric(
        self,
        *,
        lr: float,
        target_group_sparsity: float,
        start_pruning_step: int,
        sampling_steps: int,
        hybrid_training_steps: int,
        max_cycle: int = 10,
        tolerance: int = 0,
        loss_weight: float = 1.0,
        variant: Variant = "sgd",
        criteria: Criteria | None = None,
        **base: Any,
    ) -> HESSOCRIC:
        """HESSO-CRIC: sampling_steps a cycle. Its step wants the loss: `step(loss=loss)`."""
        return self._kept(
            HESSOCRIC(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity),
                start_step=start_pruning_step,
                fade_steps=hybrid_training_steps,
                cycles=Cycles(sampling_steps, max_cycle, tolerance, loss_weight),
                criteria=criteria,
            )
        )

    def hspg(
        self,
        *,
        lr: float,
        target_group_sparsity: float,
        start_pruning_step: int,
        lmbda: float = 1e-3,
        lmbda_milestones: Sequence[int] = (),
        epsilon: ByKind = 0.0,
        adapt_every: int = 0,
        adapt_kinds: Iterable[str] = (),
        upper_group_sparsity: ByKind | None = None,
        complete: tuple[int, int] | None = None,
        variant: Variant = "sgd",
        **base: Any,
    ) -> HSPG:
        """HSPG: lmbda weighs the mixed norm; start_pruning_step is where projection starts.

        lmbda falls to a tenth at each of lmbda_milestones, steps. epsilon and upper_group_sparsity are numbers, or
        dicts such as {"conv": 0, "linear": 0.9}.
        """
        return self._kept(
            HSPG(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity),
                start_step=start_pruning_step,
                penalty=lmbda,
                penalty_milestones=lmbda_milestones,
                epsilon=epsilon,
                adapt_every=adapt_every,
                adapt_kinds=adapt_kinds,
                upper_group_sparsity=upper_group_sparsity,
                complete=complete,
            )
        )

    def adahspg_reconstructed(
        self,
        *,
        lr: float,
        target_group_sparsity: float,
        phase_steps: int,
        full: Closure,
        lmbda: float = 1e-3,
        epsilon: float = 0.0,
        radius: float = 1.0,
        complete: tuple[int, int] | None = None,
        variant: Variant = "sgd",
        **base: Any,
    ) -> AdaHSPG:
        """AdaHSPG+ (reconstructed): `full` leaves the mean gradient over all data; its step wants the closure."""
        return self._kept(
            AdaHSPG(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity),
                full=full,
                phase_steps=phase_steps,
                penalty=lmbda,
                epsilon=epsilon,
                radius=radius,
                buffers=self.model.buffers(),
                complete=complete,
            )
        )

    def dhspg(
        self,
        *,
        lr: float,
        target_group_sparsity: float,
        start_pruning_step: int,
        lmbda: float | None = None,
        lmbda_amplify: float | None = None,
        hat_lmbda_coeff: float | None = None,
        epsilon: float = 0.0,
        tolerance_group_sparsity: float = 0.05,
        complete: tuple[int, int] | None = None,
        variant: Variant = "sgd",
        **base: Any,
    ) -> DHSPG:
        """DHSPG; lmbda and its two coefficients follow the variant where they are not given."""
        made = self.base_optimizer(variant, lr, **base)
        penalty, amplify, cap = dhspg_defaults(made)
        return self._kept(
            DHSPG(
                made,
                *self._parts(target_group_sparsity),
                start_step=start_pruning_step,
                penalty=penalty if lmbda is None else lmbda,
                amplify=amplify if lmbda_amplify is None else lmbda_amplify,
                cap=cap if hat_lmbda_coeff is None else hat_lmbda_coeff,
                epsilon=epsilon,
                tolerance=tolerance_group_sparsity,
                complete=complete,
            )
        )

    def lhspg(
        self,
        *,
        lr: float,
        target_group_sparsity: float,
        start_pruning_step: int,
        pruning_steps: int,
        pruning_periods: int = 10,
        lora: Lora | None = None,
        targets: str | Iterable[str] = (),
        also: Also = "heads",
        seed: int = 0,
        variant: Variant = "adamw",
        criteria: Criteria | None = None,
        **base: Any,
    ) -> LHSPG:
        """LHSPG: gives the model adapters, drawn from seed, and freezes it but for what `also` says (see `attach`).

        Its parameters' names stay. `merged` gives the full-size model without adapters.
        """
        patterns = (targets,) if isinstance(targets, str) else tuple(targets)
        draw = torch.Generator().manual_seed(seed)
        made = attach(self.model, self.groups, lora or Lora(), draw, targets=patterns, also=also)
        try:
            return self._kept(
                LHSPG(
                    self.base_optimizer(variant, lr, **base),
                    *self._parts(target_group_sparsity),
                    made,
                    start_step=start_pruning_step,
                    pruning_steps=pruning_steps,
                    periods=pruning_periods,
                    criteria=criteria,
                )
            )
        except UsageError:
            made.remove()
            raise

    def base_optimizer(
        self,
        variant: Variant,
        lr: float,
        *,
        first_momentum: float | None = None,
        second_momentum: float | None = None,
        dampening: float = 0.0,
        weight_decay: float | None = None,
    ) -> torch.optim.Optimizer:
        """torch's own over all parameters that want gradients.

        Momenta are 0 for sgd, (0.9, 0.999) for adam and adamw; weight_decay 0, for adamw 0.01. Raises UsageError
        for an unknown variant.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if variant == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=lr,
                momentum=first_momentum or 0.0,
                dampening=dampening,
                weight_decay=weight_decay or 0.0,
            )
        if variant not in ("adam", "adamw"):
            raise UsageError(f"the variants are sgd, adam and adamw, not {variant!r}")
        betas = (
            0.9 if first_momentum is None else first_momentum,
            0.999 if second_momentum is None else second_momentum,
        )
        if variant == "adam":
            return torch.optim.Adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay or 0.0)
        return torch.optim.AdamW(
            parameters, lr=lr, betas=betas, weight_decay=1e-2 if weight_decay is None else weight_decay
        )

    def _parts(self, sparsity: float) -> tuple[Rows, Quota]:
        return Rows(self._units()), self._quota("groups", sparsity)

    def _units(self) -> Units:
        """The groups' slices in the model, and in its adapters if it has some."""
        return adapters(self.model).units(units(self.model, self.groups))

    def _quota(self, kind: Kind, remove: float) -> Quota:
        return Quota(self.groups, Budget(kind, remove), self.limits, self.cost)

    def _kept(self, made: Made) -> Made:
        self.optimizer, self._drawn = made, None
        return made

    # -- what comes out ------------------------------------------------------------------------

    def random_set_zero_groups(self, target_group_sparsity: float = 0.5, seed: int = 0) -> None:
        """Set a random share of all groups to zero in the model: to try a subnet before anything is trained."""
        draw = torch.rand(self.groups.count + 1, generator=torch.Generator().manual_seed(seed))
        steps = ladder(self.groups, draw, limits=self.limits)
        self._drawn = steps.selection(solve(steps, Budget("groups", target_group_sparsity), self.cost))
        self._units().fill_(self._drawn.removed)

    def selection(self) -> Selection:
        """The groups that have left.

        Raises UsageError when nothing was trained or drawn or pruning is not finished; NotExactlyZero when
        something has written to a group after it left.
        """
        if self._drawn is not None:
            choice = self._drawn
        elif self.optimizer is None:
            raise UsageError("train with an optimizer of this OTO first, or call random_set_zero_groups")
        elif not self.optimizer.finished:
            raise UsageError(f"pruning is not finished after {self.optimizer.steps} steps: train on")
        else:
            choice = self.groups.select(self.optimizer.zero_groups)
        wrong = nonzero(self._units(), choice)
        if wrong.size:
            raise NotExactlyZero(
                f"{wrong.size} of {len(choice)} groups that have left are not zero, the first is group {wrong[0]}: "
                "something wrote to them after the optimizer's last step"
            )
        return choice

    def merged(self) -> torch.nn.Module:
        """A copy of the trained model, full size, in eval mode, with its adapters merged; the model keeps them."""
        twin = copy.deepcopy(self.model).eval()
        adapters(twin).merge()
        return twin

    def construct_subnet(self, out_dir: str | Path | None = None) -> torch.nn.Module:
        """The smaller module, in eval mode, which computes exactly what the trained model (`merged`) does.

        With out_dir it is saved as well: a plan and the weights. Raises as `selection` does, and ExtractionError
        when no subnet can be built.
        """
        choice, full = self.selection(), self.merged()
        subnet = pc.extract(full, choice).eval()
        if out_dir is not None:
            # A plan is of the model that was traced, which may have adapters now.
            groups = replace(choice.groups, graph=replace(choice.groups.graph, model=full))
            pc.save_subnet(subnet, Path(out_dir), groups.select(choice.removed))
        return subnet

    def compute_flops(self) -> dict[str, int]:
        """Multiply-adds of matrix products and convolutions for the example inputs: `full` and `compressed`."""
        return {"full": self.cost.macs(), "compressed": self.cost.macs(self.selection())}

    def compute_num_params(self) -> dict[str, int]:
        """Elements of all parameters: `full` and `compressed`."""
        return {"full": self.cost.params(), "compressed": self.cost.params(self.selection())}
