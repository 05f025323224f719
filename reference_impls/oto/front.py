"""The front door: a model, an optimizer that prunes it while you train, and the subnet."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

import conformance as pc
from conformance.errors import UsageError
from conformance.graph.tape import as_arguments
from conformance.method import Budget, Cost, Limits, NotExactlyZero, Units, ladder, units
from conformance.method.budget import solve
from conformance.method.host import nonzero
from conformance.method.ladder import removable
from conformance.partition.selection import Selection
from reference_impls.oto.adahspg import AdaHSPG, Closure
from reference_impls.oto.cric import HESSOCRIC, Cycles
from reference_impls.oto.dhspg import DHSPG, dhspg_defaults
from reference_impls.oto.hesso import HESSO
from reference_impls.oto.hspg import HSPG
from reference_impls.oto.kinds import ByKind
from reference_impls.oto.lhspg import LHSPG
from reference_impls.oto.lora import Also, Lora, adapters, attach
from reference_impls.oto.quota import Quota
from reference_impls.oto.rows import Rows
from reference_impls.oto.saliency import Criteria
from reference_impls.oto.variants import Variant, base_optimizer
from reference_impls.oto.words import attribute, understood
from reference_impls.oto.wrapper import SparseOptimizer

Made = TypeVar("Made", bound=SparseOptimizer)


class OTO:
    """Train a model once and take the smaller one out of it.

    example_inputs is one tensor, a tuple of positional arguments, or a dict of keyword arguments; nothing is
    computed with them. The model is trained in place by your own loop. Move it to its device before an
    optimizer is made. An optimizer's `group_divisible` is the limits' round_to: the groups that an axis keeps are a
    multiple of it.

    Raises UsageError for a model without groups that could be removed exactly, TraceError for one that cannot
    be traced.
    """

    @understood
    def __init__(
        self,
        model: torch.nn.Module,
        example_inputs: Any = None,
        limits: Limits | None = None,
        *,
        dummy_input: Any = None,
    ) -> None:
        """Trace and partition; the model's modes stay as they were. dummy_input is another word for example_inputs."""
        if (example_inputs is None) == (dummy_input is None):
            raise UsageError("OTO traces the model: give it example_inputs, or dummy_input, which is the same")
        example_inputs = dummy_input if example_inputs is None else example_inputs
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

    def __getattr__(self, name: str) -> Any:
        """Names of only_train_once that are others here are said so."""
        raise attribute(name)

    # -- what must stay ------------------------------------------------------------------------

    def mark_unprunable(self, patterns: str | Iterable[str]) -> None:
        """Parameters or modules whose groups stay (`fc`, `layer1.*`). Raises UsageError for what matches nothing."""
        given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if self.optimizer is not None:
            raise UsageError("say what must stay before an optimizer is made")
        limits = replace(self.limits, ignore=(*self.limits.ignore, *given))
        removable(self.groups, limits.ignore)  # says what matches nothing
        self.limits = limits

    def mark_unprunable_by_param_names(self, param_names: Iterable[str]) -> None:
        """`mark_unprunable` under its name in only_train_once: the groups of these parameters stay."""
        self.mark_unprunable(param_names)

    # -- optimizers ----------------------------------------------------------------------------

    @understood
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
        group_divisible: int | None = None,
        **base: Any,
    ) -> HESSO:
        """HESSO around SGD, Adam or AdamW. For the options of the base see `base_optimizer`."""
        return self._kept(
            HESSO(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity, group_divisible),
                start_step=start_pruning_step,
                pruning_steps=pruning_steps,
                periods=pruning_periods,
                criteria=criteria,
            )
        )

    @understood
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
        group_divisible: int | None = None,
        **base: Any,
    ) -> HESSOCRIC:
        """HESSO-CRIC: sampling_steps a cycle. Its step wants the loss: `step(loss=loss)`."""
        return self._kept(
            HESSOCRIC(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity, group_divisible),
                start_step=start_pruning_step,
                fade_steps=hybrid_training_steps,
                cycles=Cycles(sampling_steps, max_cycle, tolerance, loss_weight),
                criteria=criteria,
            )
        )

    @understood
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
        group_divisible: int | None = None,
        **base: Any,
    ) -> HSPG:
        """HSPG: lmbda weighs the mixed norm; start_pruning_step is where projection starts.

        lmbda falls to a tenth at each of lmbda_milestones, steps. epsilon and upper_group_sparsity are numbers, or
        dicts such as {"conv": 0, "linear": 0.9}.
        """
        return self._kept(
            HSPG(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity, group_divisible),
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

    @understood
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
        group_divisible: int | None = None,
        **base: Any,
    ) -> AdaHSPG:
        """AdaHSPG+ (reconstructed): `full` leaves the mean gradient over all data; its step wants the closure."""
        return self._kept(
            AdaHSPG(
                self.base_optimizer(variant, lr, **base),
                *self._parts(target_group_sparsity, group_divisible),
                full=full,
                phase_steps=phase_steps,
                penalty=lmbda,
                epsilon=epsilon,
                radius=radius,
                buffers=self.model.buffers(),
                complete=complete,
            )
        )

    @understood
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
        group_divisible: int | None = None,
        **base: Any,
    ) -> DHSPG:
        """DHSPG; lmbda and its two coefficients follow the variant where they are not given."""
        made = self.base_optimizer(variant, lr, **base)
        penalty, amplify, cap = dhspg_defaults(made)
        return self._kept(
            DHSPG(
                made,
                *self._parts(target_group_sparsity, group_divisible),
                start_step=start_pruning_step,
                penalty=penalty if lmbda is None else lmbda,
                amplify=amplify if lmbda_amplify is None else lmbda_amplify,
                cap=cap if hat_lmbda_coeff is None else hat_lmbda_coeff,
                epsilon=epsilon,
                tolerance=tolerance_group_sparsity,
                complete=complete,
            )
        )

    @understood
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
        group_divisible: int | None = None,
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
                    *self._parts(target_group_sparsity, group_divisible),
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

    @understood
    def base_optimizer(self, variant: Variant, lr: float, **base: Any) -> torch.optim.Optimizer:
        """torch's own over all parameters that want gradients: see `variants.base_optimizer`."""
        return base_optimizer(self.model, variant, lr, **base)

    def _parts(self, sparsity: float, divisible: int | None) -> tuple[Rows, Quota]:
        return Rows(self._units()), Quota(self.groups, Budget("groups", sparsity), self._limits(divisible), self.cost)

    def _limits(self, divisible: int | None) -> Limits:
        if divisible is None:
            return self.limits
        if self.limits.round_to not in (1, divisible):
            raise UsageError(f"group_divisible is {divisible}, and round_to of the limits {self.limits.round_to}")
        return replace(self.limits, round_to=divisible)

    def _units(self) -> Units:
        """The groups' slices in the model, and in its adapters if it has some."""
        return adapters(self.model).units(units(self.model, self.groups))

    def _kept(self, made: Made) -> Made:
        self.optimizer, self._drawn = made, None
        return made

    # -- what comes out ------------------------------------------------------------------------

    @understood
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

    @understood
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

    @understood
    def compute_flops(self) -> dict[str, int]:
        """Multiply-adds of matrix products and convolutions for the example inputs: `full` and `compressed`."""
        return {"full": self.cost.macs(), "compressed": self.cost.macs(self.selection())}

    @understood
    def compute_num_params(self) -> dict[str, int]:
        """Elements of all parameters: `full` and `compressed`."""
        return {"full": self.cost.params(), "compressed": self.cost.params(self.selection())}
